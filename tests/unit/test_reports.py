"""The end of a run: whatever happens while the report is written, the run's own end stands."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flows.artifacts import as_text
from flows.reports import report_after_run, report_if_missing
from lynx_engine.report import html
from lynx_engine.settings import Settings
from tests.support.logs import HOSTILE


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (KeyboardInterrupt(), "the report was not written: it was interrupted"),
        (OSError(28, "No space left on device"), "OSError: [Errno 28] No space left on device"),
        (ZeroDivisionError("a bug"), "the report was not written: ZeroDivisionError: a bug"),
    ],
)
def test_fault_of_the_report_is_a_warning(
    fault: BaseException,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(_campaign: str, *, settings: Settings) -> Path:
        del settings
        raise fault

    monkeypatch.setattr(html, "write_report", fail)
    assert report_after_run("trial", Settings(workspace=tmp_path)) is None
    (record,) = caplog.records
    assert (record.levelname, record.exc_info) == ("WARNING", None)
    assert told in record.getMessage()


def test_damaged_log_is_a_warning_that_names_the_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    part = tmp_path / "outputs/trial/provenance/log-x.parquet"
    part.parent.mkdir(parents=True)
    part.touch()
    assert report_after_run("trial", Settings(workspace=tmp_path)) is None
    assert str(part) in caplog.text


def test_page_that_a_killed_run_left_behind_its_log_is_written_anew_and_no_other(
    tmp_path: Path,
) -> None:
    settings = Settings(workspace=tmp_path)
    log = tmp_path / "outputs/trial/provenance"
    log.mkdir(parents=True)
    page = report_if_missing("trial", settings)
    assert page is not None
    page.write_text("as it was")
    assert report_if_missing("trial", settings) == page
    assert page.read_text() == "as it was"
    os.utime(page, (1, 1))
    assert report_if_missing("trial", settings) == page
    assert page.read_text() != "as it was"


@pytest.mark.parametrize("text", HOSTILE[:50])
def test_text_in_prefects_markdown_is_escaped_to_the_last_sign(text: str) -> None:
    shown = as_text(text)
    bare = shown.replace("\\\\", "")
    signs = [at for at, sign in enumerate(bare) if sign in "<>[]()`*_!#|:@.&~{}-+"]
    assert all(at > 0 and bare[at - 1] == "\\" for at in signs)
    assert "\n" not in shown
