"""Writes a campaign's report: one file that a browser opens beside the clips, without a network.

The page links to clips and posters by relative addresses and holds everything else. Whatever comes
from a manifest, a record or a program's output is another's text: it is escaped by the template,
or packed as JSON that the page's one script reads as data. The page's policy allows that script and
the style by their hashes, and nothing from elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from lynx_engine import __version__
from lynx_engine.history import RETRYABLE
from lynx_engine.jobs import Status
from lynx_engine.provenance.files import write_durably
from lynx_engine.report.details import (
    ADVICE,
    LOW_IDENTITY_ADVICE,
    MEANING,
    commands_of,
    manifest_of,
    under_gate,
    what_to_do,
)
from lynx_engine.report.packing import clip_link, pack, poster_link
from lynx_engine.report.photo_thumbs import PHOTO_MARK, make_thumbs
from lynx_engine.report.posters import make_posters
from lynx_engine.report.report_charts import LEFT, WIDTH, chart_likeness, chart_stages
from lynx_engine.report.report_data import STATUSES, Report, gather_report
from lynx_engine.report.texts import visible
from lynx_engine.survey import CLIPS_FOLDER
from lynx_engine.words import duration_in_words

if TYPE_CHECKING:
    import jinja2

    from lynx_engine.settings import Settings

logger = logging.getLogger(__name__)

REPORT_FILE = "report.html"
"""Name of the report in the campaign's folder."""

_TEMPLATES = Path(__file__).parent / "templates"
_SHORT_PROMPT, _SHORT_MESSAGE = 140, 300
_MOST_DEVICES = 6


def write_report(campaign: str, *, settings: Settings) -> Path:
    """Write the report of a campaign as its log tells it now, whole or not at all.

    A file that shows photos is its owner's alone to read.

    Args:
        campaign: Its name.
        settings: Where it lies, and whether photos may be shown.

    Returns:
        The file, `report.html` in the campaign's folder.

    Raises:
        DamagedError: If the campaign's log is damaged.
        OSError: If the disk refuses.
    """
    from lynx_engine.provenance.store import read_log

    folder = settings.campaign_dir(campaign)
    log = read_log(campaign, settings=settings)
    report = gather_report(campaign, log, clips=_names_in(folder / CLIPS_FOLDER))
    posters = make_posters(folder, [row.clip for row in report.rows if row.is_there])
    photos = make_thumbs(report.rows, settings) if settings.report_photos else {}
    page = report_page(report, posters=posters, photos=photos)
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(folder / REPORT_FILE, page.encode(), mode=0o600 if photos else 0o666)
    return folder / REPORT_FILE


def shows_photos(report: Path) -> bool:
    """Return whether a report that was written shows any photo of a subject."""
    return PHOTO_MARK in report.read_bytes()


def report_page(
    report: Report,
    *,
    posters: frozenset[str] = frozenset(),
    photos: Mapping[str, str] | None = None,
    made_at: datetime | None = None,
) -> str:
    """Return the page as HTML.

    Args:
        report: What it shows.
        posters: File names of the posters that are there.
        photos: Subject -> data URI of a small photo; none by default.
        made_at: When it is made, UTC; now by default.
    """
    from markupsafe import Markup

    style, script = (_asset(name) for name in ("report.css", "report.js"))
    groups = [
        (word, [row for row in report.current if row.status == word]) for word in report.statuses
    ]
    return _template().render(
        report=report,
        groups=[(word, rows) for word, rows in groups if rows],
        older=[row for row in report.rows if row.is_older],
        words=MEANING,
        statuses=STATUSES,
        advice=ADVICE,
        manifests=_manifests_by_code(report),
        commands_of=commands_of,
        what_to_do=what_to_do,
        under_gate=under_gate,
        below_gate=_manifests_of(report, Status.LOW_IDENTITY),
        low_identity_advice=LOW_IDENTITY_ADVICE,
        clip_link=clip_link,
        poster_of=lambda row: poster_link(row, posters),
        # The text is JSON without `<`, `>` and `&`; style and script are ours.
        data=Markup(pack(report.rows, posters=posters, photos=photos or {})),
        style=Markup(style),
        script=Markup(script),
        policy=_policy(style, script),
        likeness=chart_likeness(report.current),
        stages=chart_stages(report.current),
        width=WIDTH,
        left=LEFT,
        versions=_versions(report),
        version=__version__,
        made_at=made_at or datetime.now(UTC),
        duration=duration_in_words,
        short_prompt=_SHORT_PROMPT,
        short_message=_SHORT_MESSAGE,
        most_devices=_MOST_DEVICES,
    )


def _manifests_by_code(report: Report) -> Mapping[str, Sequence[str]]:
    """Return, for each failure's code, the manifests that its rows stand in."""
    found: dict[str, dict[str, None]] = {}
    for row in report.current:
        if row.status in RETRYABLE and row.record["code"]:
            found.setdefault(str(row.record["code"]), {})[manifest_of(row)] = None
    return {code: tuple(manifests) for code, manifests in found.items()}


def _manifests_of(report: Report, status: str) -> Sequence[str]:
    """Return the manifests that the rows of a status stand in."""
    return list(dict.fromkeys(manifest_of(r) for r in report.current if r.status == status))


@cache
def _asset(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


@cache
def _template() -> jinja2.Template:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")


def _shown(value: object) -> object:
    """Spell out what is invisible in every text that the template writes, but not in our markup."""
    return visible(value, keep_newlines=True) if type(value) is str else value


def _policy(style: str, script: str) -> str:
    """Return the page's Content-Security-Policy: our two elements, and media from beside it.

    `file:` stands beside `'self'` because a page opened from a folder has no origin to match.
    """
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src '{_hash_of(script)}'",
            f"style-src '{_hash_of(style)}'",
            "img-src 'self' file: data:",
            "media-src 'self' file:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _hash_of(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _versions(report: Report) -> Sequence[str]:
    """Return what made the clips, in a few words each, newest last."""
    found = dict.fromkeys(
        f"lynx_engine {r['engine_version']}{' at ' * bool(r['commit'])}{r['commit'][:8]}, "
        f"torch {r['torch_version']}, {r['platform']}"
        for r in (row.record for row in report.rows)
    )
    return list(found)[-3:]


def _names_in(folder: Path) -> frozenset[str]:
    try:
        return frozenset(path.name for path in folder.iterdir())
    except FileNotFoundError:
        return frozenset()
