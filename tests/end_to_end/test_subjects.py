"""`lynx-engine subjects` through the installed command: all at once, and a sheet to look at."""

from __future__ import annotations

import base64
import hashlib
import json
import stat
from collections.abc import Iterator
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from lynx_engine.digest import digest_file
from lynx_engine.preflight import PhotoReport
from lynx_engine.report.contact_sheet import write_contact_sheet
from tests.support.jobs import astronaut
from tests.support.photos import group_photo, other_portrait
from tests.support.workspaces import Workspace

HOSTILE = "\"><img src=x onerror=alert(1)>'&\u202e\x1b[31m.png"
CAST = """\
campaign: cast
defaults: {{variant: tiny}}
subjects:
  host: {{image: one.png, consent: {{basis: public-domain}}}}
  nobody: {{image: noise.png, synthetic: true}}
  crowd: {{image: {group}, synthetic: true}}
  guest: {{image: {group}, face: {{index: 4}}, synthetic: true}}
  tiny: {{image: tiny.png, synthetic: true}}
  pair: {{image: [blurred.png, dark.png], synthetic: true}}
  twin: {{image: again.jpg, synthetic: true}}
  hostile: {{image: {hostile}, synthetic: true}}
  unasked: {{image: one.png}}
  absent: {{image: absent.png, synthetic: true}}
  double: {{image: [one.png, ./one.png], synthetic: true}}
rows: [{{subject: host, text: A person waves.}}]
"""
STRANGER = """\
campaign: stranger
defaults: {{variant: tiny, steps: 1, frames: 5}}
subjects:
  host:
    image: [one.png, mirrored.png, {other}, bright.png]
    consent: {{basis: public-domain}}
rows: [{{subject: host, text: A person waves.}}]
"""
GOOD = """\
campaign: good
subjects: {host: {image: one.png, synthetic: true}, soft: {image: soft.png, synthetic: true}}
rows:
  - {subject: host, text: A person waves., variant: tiny}
  - {subject: soft, text: A person waves., variant: tiny}
"""


def write_photos(folder: Path) -> None:
    portrait = Image.open(astronaut()).convert("RGB")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (128, 128, 3), dtype=np.uint8)).save(folder / "noise.png")
    portrait.resize((150, 150)).save(folder / "tiny.png")
    portrait.filter(ImageFilter.GaussianBlur(2)).save(folder / "blurred.png")
    portrait.point(lambda level: level * 0.15).save(folder / "dark.png")
    portrait.resize((400, 400)).save(folder / "again.jpg", quality=80)
    portrait.crop((100, 20, 380, 300)).save(folder / HOSTILE, "PNG")


def verdicts(photos: list[dict[str, object]]) -> dict[str, tuple[object, list[str]]]:
    return {
        f"{photo['subject']} {Path(str(photo['photo'])).name}": (
            photo["verdict"],
            [advice["word"] for advice in photo["advice"]],  # pyright: ignore[reportIndexIssue, reportGeneralTypeIssues]
        )
        for photo in photos
    }


class Page(HTMLParser):
    """What a browser would make of a page: its elements and its text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def attributes(self, tag: str) -> Iterator[dict[str, str | None]]:
        return (attributes for name, attributes in self.elements if name == tag)


def assert_harmless(page: Page) -> None:
    """No script, nothing from elsewhere, and the policy forbids both."""
    known = "html head meta title style body h1 h2 p bdi code main article header span div figure "
    known += "img figcaption dl dt dd ul li"
    assert {tag for tag, _ in page.elements} <= set(known.split())
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.keys().isdisjoint({"style", "href", "srcset", "action"})
    for attributes in page.attributes("img"):
        assert (attributes["src"] or "").startswith("data:image/jpeg;base64,")
        assert attributes["alt"]
    policy = next(
        a["content"] or ""
        for a in page.attributes("meta")
        if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy
    style = next(text for text in page.texts if "color-scheme" in text)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in policy, "else the browser would drop the style"


def test_every_photo_of_a_cast_is_judged_at_once_and_drawn(workspace: Workspace) -> None:
    write_photos(workspace.folder)
    manifest = CAST.format(group=group_photo(), hostile=json.dumps(HOSTILE))
    workspace.write("cast.yaml", manifest)
    done = workspace.run("subjects", "cast.yaml", "--json")
    assert done.returncode == 2, done.stderr
    told = json.loads(done.stdout)
    assert verdicts(told["photos"]) == {
        "host one.png": ("poor", ["look-alike"]),
        "nobody noise.png": ("refused", []),
        "crowd t1.jpg": ("refused", []),
        "guest t1.jpg": ("poor", ["turned"]),
        "tiny tiny.png": ("refused", []),
        "pair blurred.png": ("poor", ["blurred", "look-alike"]),
        "pair dark.png": ("poor", ["dark", "look-alike"]),
        "twin again.jpg": ("poor", ["small", "look-alike"]),
        f"hostile {HOSTILE}": ("poor", ["look-alike"]),
        "unasked one.png": ("refused", []),
        "absent absent.png": ("refused", []),
        "double one.png": ("refused", ["look-alike"]),
    }
    assert [problem["where"] for problem in told["problems"]] == [
        f"cast.yaml:{line}" for line in (5, 6, 8, 12, 13, 14)
    ]
    crowd = told["photos"][2]
    assert [face["index"] for face in crowd["faces"]] == [0, 1, 2, 3, 4, 5]
    assert told["photos"][3]["chosen"] == 4
    # What would let a face be searched for is in no output.
    digest = digest_file(astronaut())
    folder = workspace.folder / "outputs/cast"
    page_text = (folder / "subjects.html").read_text(encoding="utf-8")
    for text in (done.stdout, done.stderr, page_text):
        assert digest not in text
        assert "hash" not in text
    assert [Path(path).name for path in told["sheet"]] == ["subjects.html", "subjects.png"]
    for name in ("subjects.html", "subjects.png"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    assert sorted(path.name for path in folder.iterdir()) == ["subjects.html", "subjects.png"]

    page = Page(page_text)
    assert_harmless(page)
    shown = "".join(page.texts)
    assert "\"><img src=x onerror=alert(1)>'&\\u202e\\u001b[31m.png" in shown
    assert "\u202e" not in page_text
    assert "\x1b" not in page_text
    # 9 photos that may be looked at and are there, one twice; two crops of each chosen face.
    pictures = list(page.attributes("img"))
    assert len(pictures) == 11 + 2 * 8
    first = BytesIO(base64.b64decode((pictures[1]["src"] or "").partition(",")[2]))
    assert Image.open(first).size == (256, 256)
    with Image.open(folder / "subjects.png") as sheet:
        sheet.load()
        assert sheet.width == 1320

    again = workspace.run("subjects", "cast.yaml", "--quiet", "--no-sheet")
    assert (again.returncode, again.stdout) == (2, "")
    head, *letters = again.stderr.splitlines()
    assert head == "6 problems, nothing would be rendered:"
    assert len(letters) == 6
    assert "onerror" not in again.stderr, "only refusals are said"


def test_poor_photos_are_used_with_a_remark_and_quietly_without(workspace: Workspace) -> None:
    with Image.open(group_photo()) as group:
        soft = group.crop((620, 180, 960, 620)).filter(ImageFilter.GaussianBlur(2))
    soft.save(workspace.folder / "soft.png")
    workspace.write("good.yaml", GOOD)
    done = workspace.run("subjects", "good.yaml", "--no-sheet")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert not (workspace.folder / "outputs").exists()
    lines = done.stdout.splitlines()
    assert lines[-1] == "good: 2 photos, 1 good, 1 poor."
    (remark,) = [line for line in lines if line.startswith("subject 'soft': soft.png: The face is")]
    assert "blurred (sharpness 0.0" in remark
    assert workspace.json("subjects", "good.yaml", "--no-sheet")["problems"] == []

    # Every photo is known by now: a render says the same, from the vault, before it starts.
    no_device = ("--in-process", "--devices", "cuda:99")
    rendered = workspace.run("render", "good.yaml", *no_device)
    assert rendered.stderr.splitlines().count(remark) == 1
    assert "subject 'host'" not in rendered.stderr
    quiet = workspace.run("render", "good.yaml", *no_device, "--quiet")
    assert "cuda:99" in quiet.stderr
    assert "blurred" not in quiet.stderr
    checked = workspace.run("check", "good.yaml")
    assert "blurred" not in checked.stdout + checked.stderr, "check reads headers only"


def test_photo_of_somebody_else_among_a_subjects_photos_is_told(workspace: Workspace) -> None:
    portrait = Image.open(workspace.folder / "one.png").convert("RGB")
    ImageOps.mirror(portrait).save(workspace.folder / "mirrored.png")
    ImageEnhance.Brightness(portrait).enhance(1.25).save(workspace.folder / "bright.png")
    workspace.write("stranger.yaml", STRANGER.format(other=other_portrait()))
    dlib = {"LYNX_EVALUATOR": "dlib"}
    done = workspace.run("subjects", "stranger.yaml", "--json", **dlib)
    assert done.returncode == 0, done.stderr
    told = verdicts(json.loads(done.stdout)["photos"])
    assert told == {
        "host one.png": ("good", []),
        "host mirrored.png": ("good", []),
        f"host {other_portrait().name}": ("poor", ["unlike"]),
        "host bright.png": ("good", []),
    }
    assert "the face is unlike the other 3 photos of this subject" in done.stdout
    page = (workspace.folder / "outputs/stranger/subjects.html").read_text(encoding="utf-8")
    assert page.count("unlike the other 3 photos") == 1

    remark = f"subject 'host': {other_portrait()}: The face is unlike the other 3 photos"
    no_device = ("--in-process", "--devices", "cuda:99")
    rendered = workspace.run("render", "stranger.yaml", *no_device, **dlib)
    assert [line for line in rendered.stderr.splitlines() if "unlike" in line] == [
        f"{remark} of this subject. If it is another person, remove the photo; it takes part in "
        "the mean until then."
    ]
    # Where nobody scores, nobody can tell.
    done = workspace.run("subjects", "stranger.yaml", "--no-sheet", LYNX_EVALUATOR="none")
    assert (done.returncode, "unlike" in done.stdout) == (0, False)


def test_manifest_without_subjects_has_no_photos_to_look_at(workspace: Workspace) -> None:
    workspace.write("none.yaml", "rows: [{text: A hill., variant: wan}]\n")
    done = workspace.run("subjects", "none.yaml")
    assert done.returncode == 0
    assert done.stdout == "none: no subjects, so no photos to look at.\n"
    assert not (workspace.folder / "outputs").exists()


def test_faults_beside_the_photos_are_pointed_at_or_refused(workspace: Workspace) -> None:
    workspace.write("odd.yaml", GOOD.replace("soft.png", "one.png") + "speling: 1\n")
    done = workspace.run("subjects", "odd.yaml", "--no-sheet")
    assert done.returncode == 0
    assert "`lynx-engine check odd.yaml` lists them" in done.stderr
    workspace.write("bare.yaml", "subjects: {a: {image: https://example.org/a.png}}\nrows: []\n")
    refused = workspace.run("subjects", "bare.yaml")
    assert refused.returncode == 2
    assert "image is a URL" in refused.stderr


@pytest.mark.parametrize("name", ["</bdi><script>alert(1)</script>", "a\u2066b", "&lt;b&gt;"])
def test_no_name_gets_out_of_the_page(name: str, tmp_path: Path) -> None:
    reports = [PhotoReport(name, Path(f"{name}.png"))]
    page, picture = write_contact_sheet(tmp_path / "outputs", name, reports)
    parsed = Page(page.read_text(encoding="utf-8"))
    assert_harmless(parsed)
    assert name.replace("\u2066", "\\u2066") in "".join(parsed.texts)
    with Image.open(picture) as sheet:
        assert sheet.width == 1320
    assert stat.S_IMODE(page.stat().st_mode) == 0o600


def test_sheet_that_is_there_is_replaced_and_a_link_is_not_followed(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "outputs", tmp_path / "elsewhere.html"
    elsewhere.write_text("mine")
    folder.mkdir()
    (folder / "subjects.html").symlink_to(elsewhere)
    page, _ = write_contact_sheet(folder, "c", [PhotoReport("a", Path("a.png"))])
    assert elsewhere.read_text() == "mine"
    assert not page.is_symlink()
    assert "a.png" in page.read_text()
