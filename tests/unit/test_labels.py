"""What tags say of a job, and what tags of any origin tell of one."""

from __future__ import annotations

import json

import pytest

from lynx_engine import __version__
from lynx_engine.provenance.labels import job_id_in, tags_of
from tests.support.jobs import make_job


def test_tags_tell_name_request_and_that_it_is_generated() -> None:
    job = make_job(prompt="一只狗 waves.", subject_digest="d" * 64)
    tags = tags_of(job, "Studio Nord")
    assert tags["title"] == job.clip_name.removesuffix(".mp4")
    assert json.loads(tags["comment"]) == {
        "job_id": job.job_id,
        "prompt": "一只狗 waves.",
        "software": f"lynx_engine {__version__}",
    }
    # The names and their order are those of GB 45438-2025, appendix E.
    assert list(json.loads(tags["AIGC"]).items()) == [
        ("Label", "1"),
        ("ContentProducer", "Studio Nord"),
        ("ProduceID", job.job_id),
        ("ReservedCode1", ""),
        ("ContentPropagator", ""),
        ("PropagateID", ""),
        ("ReservedCode2", ""),
    ]
    assert "一只狗" in tags["comment"]
    assert "d" * 64 not in "".join(tags.values())


def test_job_id_is_found_in_a_comment_whatever_its_case() -> None:
    job = make_job()
    tags = tags_of(job, "me")
    assert job_id_in(tags) == job.job_id
    assert job_id_in({"COMMENT": tags["comment"]}) == job.job_id


@pytest.mark.parametrize(
    "comment",
    [
        "",
        "holiday",
        "[]",
        "5",
        "null",
        "{}",
        '{"job_id": 5}',
        '{"job_id": "../../etc/passwd"}',
        '{"job_id": "' + "A" * 64 + '"}',
        "[" * 100_000,
        '{"job_id": ' + "9" * 5000 + "}",
    ],
    ids=range(11),
)
def test_comment_of_somebody_else_tells_no_job(comment: str) -> None:
    assert job_id_in({"comment": comment}) == ""
    assert job_id_in({"title": comment}) == ""
