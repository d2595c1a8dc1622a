"""The report as HTML: what a parser finds in it, whatever the texts say, and how large it is."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import stat
import time
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from lynx_engine.forgetting import find_kept, forget
from lynx_engine.identity.withdrawals import withdraw
from lynx_engine.media.images import inspect_photo
from lynx_engine.provenance.environment import keyed_digest, make_workspace_key
from lynx_engine.report.html import REPORT_FILE, report_page, shows_photos, write_report
from lynx_engine.report.packing import as_json
from lynx_engine.report.report_data import gather_report
from lynx_engine.report.texts import visible
from lynx_engine.settings import Settings
from tests.support.jobs import astronaut
from tests.support.logs import (
    HOSTILE,
    Media,
    hostile_night,
    make_media,
    night,
    place_media,
    write_log,
)
from tests.unit.test_report_data import failed, log_of, made

LONG_PROMPT = "A person walks along a beach at sunrise, and the waves come in slowly. "


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Media:
    return make_media(tmp_path_factory.mktemp("media"))


@pytest.fixture(scope="module")
def hostile_page(media: Media) -> str:
    return page_of(hostile_night("hostile", media))


class Found(HTMLParser):
    """Every element of a page with its attributes, and the text of those that hold no markup."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": []}
        self._within = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in self.inside:
            self._within = tag
            self.inside[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._within:
            self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within:
            self.inside[self._within][-1] += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def data_of(page: str) -> dict[str, Any]:
    return json.loads(Found(page).inside["script"][0])


def page_of(records: list[Any], **options: Any) -> str:
    clips = {record.clip for record in records if record.clip}
    return report_page(gather_report("trial", log_of(records), clips=clips), **options)


def test_hostile_texts_make_no_element_and_no_attribute(media: Media, hostile_page: str) -> None:
    plain = [replace(r, message="m", stderr="e") for r in hostile_night("hostile", media)[:80]]
    tame = {
        "where": "w:1",
        "prompt": "p",
        "negative_prompt": "n",
        "device_name": "d",
        "evaluator": "e",
    }
    hostile = Found(hostile_page)
    harmless = Found(page_of([replace(record, **tame) for record in plain]))
    names = {tag for tag, _ in hostile.elements}
    assert names == {tag for tag, _ in harmless.elements}
    assert len(hostile.of("script")) == 2
    assert len(hostile.of("style")) == 1
    assert names.isdisjoint({"iframe", "base", "object", "embed", "link", "video"})
    used = {name for _, attributes in hostile.elements for name in attributes}
    assert used == {name for _, attributes in harmless.elements for name in attributes}
    assert not any(name.startswith("on") or name == "style" for name in used)


def test_links_lead_to_files_beside_the_page_only(hostile_page: str) -> None:
    page = Found(hostile_page)
    links = [
        str(attributes[name])
        for _, attributes in page.elements
        for name in ("href", "src")
        if name in attributes
    ]
    assert links
    assert all(re.match(r"(clips/|posters/|#)[\w.%=-]+$", link) for link in links)


def test_every_hostile_text_is_in_the_data_spelled_out(hostile_page: str) -> None:
    texts = set(data_of(hostile_page)["texts"])
    assert {visible(text, keep_newlines=True) for text in HOSTILE} <= texts
    assert not re.search("[\u202e\u2066\u200b\u2028\x1b]", hostile_page)


def test_clip_name_that_is_a_path_stays_one_name() -> None:
    record = made(1, clip="../../etc/pass wd?.mp4")
    links = [a["href"] for a in Found(page_of([record])).of("a")]
    assert "clips/..%2F..%2Fetc%2Fpass%20wd%3F.mp4" in links


def test_data_ends_no_element_and_reads_back_as_it_was() -> None:
    value = {"a": "</script><!--&\u2028\u2029<\\u003c", "b": [1, None]}
    text = as_json(value)
    assert not re.search("[<>&\u2028\u2029]", text)
    assert json.loads(text) == value
    assert json.loads(as_json(["\ud800"])) == ["\ufffd"]
    with pytest.raises(ValueError, match="JSON"):
        as_json(float("nan"))


def test_policy_allows_the_pages_own_script_and_style_alone() -> None:
    page = Found(page_of([made(1)]))
    (policy,) = [
        str(meta["content"])
        for meta in page.of("meta")
        if meta.get("http-equiv") == "Content-Security-Policy"
    ]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    script, style = page.inside["script"][1], page.inside["style"][0]
    for rule, text in (("script-src", script), ("style-src", style)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    assert rules["media-src"] == "'self' file:"
    assert "connect-src" not in rules
    assert "unsafe" not in policy
    assert "http" not in policy


def test_failures_are_readable_without_the_script() -> None:
    page = page_of([failed(1, "encoder", message="ffmpeg <exited> with 1"), made(2, minute=1)])
    assert "ffmpeg &lt;exited&gt; with 1" in page
    assert "lynx-engine retry trial.yaml --code encoder" in page
    cards = [a for a in Found(page).of("li") if "data-card" in a]
    assert [card["data-status"] for card in cards] == ["failed", "rendered"]


def test_retry_of_a_code_names_the_manifests_whose_rows_failed_by_it() -> None:
    page = page_of(
        [
            failed(1, "encoder", where="made.yaml:1"),
            failed(2, "worker_died", where="two films.csv:1"),
            made(3, where="good.yaml:1"),
        ]
    )
    told = set(re.findall(r"lynx-engine retry (.*?) --code (\w+)", unescape(page)))
    assert told == {("made.yaml", "encoder"), ("'two films.csv'", "worker_died")}


def test_row_under_its_gate_says_how_far_it_came_and_how_to_go_on() -> None:
    gate = "0.55, 3 seeds, best; by test 1"
    seen = made(1, status="low_identity", gate=gate, gate_try=3, identity_mean=0.419)
    faceless = made(2, status="low_identity", gate=gate, gate_try=1, identity_mean=None)
    page = page_of([seen, faceless])
    assert "seed 1 · 0.41 of 0.55 after 3 seeds" in page
    assert "seed 2 · no face seen, of 0.55 after 1 seed" in page
    assert "lynx-engine retry trial.yaml --status low_identity" in page
    data = data_of(page)
    told = [data["texts"][row["m"]] for row in data["rows"]]
    assert told == ["0.41 of 0.55 after 3 seeds", "no face seen, of 0.55 after 1 seed"]


def test_words_between_backticks_are_shown_as_code() -> None:
    page = page_of([failed(1, "out_of_memory")])
    assert "Retry with <code>--lowvram</code>, or ask" in page


def test_scores_that_are_no_numbers_leave_a_gap() -> None:
    scores = "[[0.0, 0.51234], [0.25, NaN], [0.5, null]]"
    page = page_of([made(1, identity_scores=scores, identity_mean=float("nan"))])
    (row,) = data_of(page)["rows"]
    assert row["x"] == [[0.0, 0.512], [0.25, None], [0.5, None]]
    assert "l" not in row
    (odd,) = data_of(page_of([made(1, identity_scores="{}")]))["rows"]
    assert "x" not in odd


def test_long_error_output_is_cut_from_the_front() -> None:
    record = failed(1, "encoder", stderr=f"{'noise ' * 2000}the end")
    data = data_of(page_of([record]))
    told = data["texts"][data["rows"][0]["e"]]
    assert told.startswith("…")
    assert told.endswith("the end")
    assert len(told) <= 2001


def test_thousand_rows_of_long_prompts_stay_under_three_megabytes(media: Media) -> None:
    records = [
        replace(r, job_id=f"{n:064x}", prompt=f"{n} {LONG_PROMPT * 6}"[:400])
        for n, r in enumerate(night("large", 1000, media))
    ]
    posters = frozenset(f"{Path(record.clip).stem}.jpg" for record in records if record.clip)
    begin = time.process_time()
    page = page_of(records, posters=posters)
    assert time.process_time() - begin < 10  # 1.5 s on an idle core
    assert len(page.encode()) < 3_000_000
    assert page.count("data-card=") == 1000
    assert len(data_of(page)["rows"]) == 1000


def test_posters_are_made_for_clips_that_lack_one(tmp_path: Path, media: Media) -> None:
    settings = Settings(workspace=tmp_path)
    folder = settings.campaign_dir("trial")
    records = [made(1), made(2, minute=1, clip="broken.mp4")]
    write_log(folder, records)
    place_media(folder, records, media)
    for poster in (folder / "posters").iterdir():
        poster.unlink()
    (folder / "clips" / "broken.mp4").unlink()
    (folder / "clips" / "broken.mp4").write_bytes(b"no clip")
    page = write_report("trial", settings=settings)
    assert page == folder / REPORT_FILE
    (poster,) = (folder / "posters").iterdir()
    images = [str(image["src"]) for image in Found(page.read_text()).of("img")]
    assert images == [f"posters/{poster.name}"]
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def with_photo(settings: Settings, *, digest: str = "") -> None:
    photo = astronaut()
    key = make_workspace_key(settings.state_dir)
    found = digest or keyed_digest(inspect_photo(photo).digest, key)
    record = made(1, subject="astronaut", photos=json.dumps([str(photo)]), subject_digest=found)
    write_log(settings.campaign_dir("trial"), [record])


def test_photo_is_shown_only_when_the_settings_allow_it(tmp_path: Path) -> None:
    settings = Settings(workspace=tmp_path)
    with_photo(settings)
    page = write_report("trial", settings=settings)
    assert not shows_photos(page)
    assert stat.S_IMODE(page.stat().st_mode) & 0o044
    page = write_report("trial", settings=settings.model_copy(update={"report_photos": True}))
    assert shows_photos(page)
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    ((name, uri),) = data_of(page.read_text())["photos"]
    picture = base64.b64decode(uri.partition(",")[2])
    assert name == "astronaut"
    assert picture.startswith(b"\xff\xd8")
    assert b"Exif" not in picture


def test_photo_of_a_subject_who_took_the_consent_back_is_not_shown(tmp_path: Path) -> None:
    settings = Settings(workspace=tmp_path, report_photos=True)
    with_photo(settings)
    withdraw(settings, "astronaut")
    assert not shows_photos(write_report("trial", settings=settings))


def test_forgetting_a_subject_removes_a_report_that_shows_photos(tmp_path: Path) -> None:
    settings = Settings(workspace=tmp_path)
    with_photo(settings)
    plain = write_report("trial", settings=settings)
    assert plain not in find_kept(["astronaut"], settings).sheets
    page = write_report("trial", settings=settings.model_copy(update={"report_photos": True}))
    kept = find_kept(["Astronaut"], settings)
    assert page in kept.sheets
    forget(kept, settings)
    assert not page.exists()


def test_photo_that_was_exchanged_since_is_not_shown(tmp_path: Path) -> None:
    settings = Settings(workspace=tmp_path, report_photos=True)
    with_photo(settings, digest="0" * 64)
    assert not shows_photos(write_report("trial", settings=settings))
