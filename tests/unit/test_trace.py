"""How a file is recognised: by its bytes, its tag, its frames, and last by its name."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, NoReturn

import polars as pl
import pytest

from lynx_engine.provenance.schema import record_columns
from lynx_engine.provenance.trace import FileFacts, FoundBy, trace
from tests.support.jobs import make_job, record_of

ONE, TWO = make_job(seed=1), make_job(seed=2)


def log(*changes: dict[str, Any]) -> pl.DataFrame:
    """Records of `ONE`, then one of `TWO`, each with bytes and frames of its own."""
    rows = [
        asdict(record_of(ONE, **{"clip_digest": f"d{n}", "frames_digest": f"f{n}", **more}))
        for n, more in enumerate(changes)
    ]
    other = asdict(record_of(TWO, clip_digest="other", frames_digest="other frames"))
    return pl.DataFrame([*rows, other], schema=record_columns(), orient="row")


def facts(name: str = "copy.mp4", **known: str) -> FileFacts:
    return FileFacts(name, "unknown", **known)


def unasked() -> NoReturn:
    pytest.fail("the file was decoded, and its digest is on record")


def test_bytes_on_record_need_no_second_look() -> None:
    found = trace(log({}, {}), "d0", unasked)
    assert found is not None
    assert (found.record["clip_digest"], found.found_by, found.told) == ("d0", FoundBy.DIGEST, "")


def test_record_that_published_the_clip_is_preferred_to_a_later_attempt() -> None:
    records = log({}, {"clip": "", "status": "failed", "clip_digest": ""})
    found = trace(records, "unknown", lambda: facts(job_id=ONE.job_id))
    assert found is not None
    assert found.record["clip"] == ONE.clip_name


@pytest.mark.parametrize(
    ("known", "by", "altered", "told"),
    [
        ({"job_id": ONE.job_id, "frames_digest": "f0"}, FoundBy.TAG, False, "with the same frames"),
        ({"job_id": ONE.job_id, "frames_digest": "x"}, FoundBy.TAG, True, "but altered"),
        ({"job_id": ONE.job_id}, FoundBy.TAG, True, "but altered"),
        ({"frames_digest": "f0"}, FoundBy.FRAMES, False, "without its tags"),
        ({"job_id": "0" * 64, "frames_digest": "f1"}, FoundBy.FRAMES, False, "decoded frames"),
        ({"name": ONE.clip_name}, FoundBy.NAME, True, "its content is not what was recorded"),
    ],
)
def test_other_file_is_found_by_what_speaks_for_it(
    known: dict[str, str], by: FoundBy, altered: bool, told: str
) -> None:
    found = trace(log({}, {}), "unknown", lambda: facts(**known))
    assert found is not None
    assert found.record["job_id"] == ONE.job_id
    assert (found.found_by, found.is_altered) == (by, altered)
    assert told in found.told


def test_of_two_renderings_of_a_job_the_one_with_these_frames_is_found() -> None:
    known = facts(job_id=ONE.job_id, frames_digest="f0")
    found = trace(log({}, {}), "unknown", lambda: known)
    assert found is not None
    assert found.record["frames_digest"] == "f0"


def test_tag_of_one_job_on_the_frames_of_another_is_altered() -> None:
    known = facts(job_id=ONE.job_id, frames_digest="other frames")
    found = trace(log({}), "unknown", lambda: known)
    assert found is not None
    assert (found.record["job_id"], found.is_altered) == (ONE.job_id, True)


def test_file_that_says_nothing_is_nobodys() -> None:
    assert trace(log({}, {"frames_digest": ""}), "unknown", lambda: facts("mine.mp4")) is None
