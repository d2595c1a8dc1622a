"""The contact sheet of a campaign's subject photos: one page and one picture, each a file.

The page holds all it shows: pictures as data URIs, no script, nothing from elsewhere. Names, paths
and letters are others' text and are escaped. It shows faces: `subjects` writes it for its owner
alone. No digest, hash or embedding is in it.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from lynx_engine.errors import pausing
from lynx_engine.identity.private_files import write_file
from lynx_engine.report.photo_pictures import PhotoPictures, draw_pictures
from lynx_engine.report.sheet_picture import draw_sheet
from lynx_engine.report.texts import visible

if TYPE_CHECKING:
    from PIL import Image

    from lynx_engine.preflight import PhotoReport

HTML_FILE, PNG_FILE = "subjects.html", "subjects.png"
"""Names of the sheet in the campaign's folder; `forget` removes them."""

_JPEG_QUALITY = 88

_STYLE = """
:root { color-scheme: light dark; --back: #f6f7f8; --card: #fff; --ink: #1d2125; --soft: #5b646d;
  --line: #d9dee3; --good: #0b6b3a; --poor: #8a5200; --refused: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --back: #14171a; --card: #1e2328; --ink: #e9ecef;
  --soft: #a4adb6; --line: #363d44; --good: #5ad18f; --poor: #f2b04b; --refused: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.25rem; max-width: 75rem; background: var(--back);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: 0; }
h2 { font-size: 1.15rem; margin: 0; }
p { margin: .25rem 0; }
.soft, figcaption, dt { color: var(--soft); font-size: .875rem; }
main { display: grid; gap: 1rem; margin-top: 1rem; }
article { background: var(--card); border: 1px solid var(--line); border-left: .35rem solid;
  border-radius: .5rem; padding: 1rem; }
.good { border-left-color: var(--good); } .good .verdict { color: var(--good); }
.poor { border-left-color: var(--poor); } .poor .verdict { color: var(--poor); }
.refused { border-left-color: var(--refused); } .refused .verdict { color: var(--refused); }
header { display: flex; flex-wrap: wrap; gap: .25rem .75rem; align-items: baseline; }
.verdict { font-weight: 700; }
.body { display: flex; flex-wrap: wrap; gap: 1rem; margin-top: .75rem; align-items: flex-start; }
figure { margin: 0; max-width: 100%; }
img { display: block; max-width: 100%; height: auto; border-radius: .25rem; }
.crops { display: flex; flex-flow: column; gap: .75rem; }
@media (max-width: 40rem) { .crops { flex-flow: row wrap; } }
.crops:empty { display: none; }
.says { flex: 1 1 18rem; min-width: 0; }
dl { display: grid; grid-template-columns: auto 1fr; gap: .1rem .75rem; margin: 0; }
dd { margin: 0; font-variant-numeric: tabular-nums; }
ul { margin: .5rem 0 0; padding-left: 1.1rem; }
"""
_POLICY = (
    "default-src 'none'; img-src data:; style-src 'sha256-"
    + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    + "'; base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True, slots=True, eq=False)
class _Card:
    report: PhotoReport
    pictures: PhotoPictures | None


def write_contact_sheet(
    folder: Path, campaign: str, reports: Sequence[PhotoReport]
) -> tuple[Path, Path]:
    """Write the page and the picture, each whole or not at all, readable by the owner alone.

    Args:
        folder: The campaign's folder, made if it is not there.
        campaign: Its name.
        reports: Of every photo, in the order to show.

    Returns:
        The two files, the page first.

    Raises:
        PausedError: If the disk refuses.
    """
    cards = [_Card(report, draw_pictures(report)) for report in reports]
    page, picture = folder / HTML_FILE, folder / PNG_FILE
    with pausing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_file(page, _page(campaign, cards).encode())
        write_file(picture, draw_sheet(campaign, [(c.report, c.pictures) for c in cards]))
    return page, picture


def measures_in_words(report: PhotoReport) -> dict[str, str]:
    """Return the measures of the subject's face by their names; nothing without a face."""
    measures = report.measures
    if measures is None:
        return {}
    return {
        "face": f"{measures.size_px:.0f} px wide",
        "sharpness": f"{measures.sharpness:.2f}",
        "head": f"turned {measures.turn_deg:+.0f}°, leaning {measures.tilt_deg:+.0f}°",
        "light": f"mean {measures.mean_luma:.0f} of 255, {measures.dark_share:.0%} black, "
        f"{measures.bright_share:.0%} white",
    }


def _page(campaign: str, cards: Sequence[_Card]) -> str:
    """Return the whole page; every foreign text goes through `_shown`."""
    counts = [(word, sum(c.report.verdict == word for c in cards)) for word in _VERDICTS]
    told = ", ".join(f"{count} {word}" for word, count in counts if count) or "no photos"
    articles = "\n".join("".join(_article(card)) for card in cards)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<meta name="referrer" content="no-referrer">
<title>Subjects of {_shown(campaign)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>Subjects of <bdi>{_shown(campaign)}</bdi></h1>
<p>{told}</p>
<p class="soft">Faces are numbered from the left: <code>face: {{index: n}}</code> chooses one.
This file shows faces; treat it as you treat the photos.</p>
<main>
{articles}
</main>
</body>
</html>
"""


_VERDICTS = ("refused", "poor", "good")


def _article(card: _Card) -> Iterator[str]:
    report, pictures = card.report, card.pictures
    yield f'<article class="{report.verdict}">\n<header><h2><bdi>{_shown(report.subject)}</bdi>'
    yield f'</h2><span class="verdict">{report.verdict}</span></header>\n'
    yield f'<p class="soft"><bdi>{_shown(str(report.photo))}</bdi></p>\n<div class="body">\n'
    if pictures is not None and report.found is not None:
        count = len(report.found.faces)
        size = f"{report.found.width_px} x {report.found.height_px} px"
        faces = f"{count} face{'' if count == 1 else 's'} found"
        alt = f"Photo of {report.subject}, {faces} and framed"
        yield _figure(pictures.photo, alt, f"photo, {size}, {faces}")
        yield '<div class="crops">'
        if pictures.reference is not None:
            alt = f"The face of {report.subject} with its surroundings, cut upright"
            yield _figure(pictures.reference, alt, "reference crop, 256 px")
        if pictures.identity is not None:
            alt = f"The face of {report.subject}, cut as the recogniser sees it"
            yield _figure(pictures.identity, alt, "identity crop, 112 px")
        yield "</div>\n"
    yield '<div class="says">\n'
    words = measures_in_words(report)
    if words:
        pairs = "".join(f"<dt>{key}</dt><dd>{text}</dd>" for key, text in words.items())
        yield f"<dl>{pairs}</dl>\n"
    texts = [report.reason] * bool(report.reason) + [advice.text for advice in report.advice]
    if texts:
        told = (f"{text[0].upper()}{text[1:]}" for text in texts)
        yield "<ul>" + "".join(f"<li>{_shown(text)}</li>" for text in told) + "</ul>\n"
    yield "</div>\n</div>\n</article>"


def _figure(picture: Image.Image, alt: str, caption: str) -> str:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_JPEG_QUALITY)
    data = base64.b64encode(file.getvalue()).decode()
    width, height = picture.size
    return (
        f'<figure><img alt="{_shown(alt)}" width="{width}" height="{height}" '
        f'src="data:image/jpeg;base64,{data}"><figcaption>{caption}</figcaption></figure>\n'
    )


def _shown(text: str) -> str:
    return escape(visible(text), quote=True)
