"""What the past means for a plan: done, held, or to run, with the reason in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from lynx_engine.errors import ErrorCode
from lynx_engine.history import (
    QUARANTINE_DEATHS,
    QUARANTINED,
    RetryFilter,
    describe_changes,
    status_word,
)
from lynx_engine.jobs import PastResult, Reason, RenderJob, RenderPlan, Status
from lynx_engine.manifest.read import read_manifest
from lynx_engine.planning import LoraFacts, PhotoFacts, PlanFacts, plan_renders

YAML = """\
subjects: {{host: {{image: h.png, synthetic: true}}}}
prompts: {{p: {prompt}}}
rows:
  - {{subject: host, prompt: p, seed: 1, variant: tiny, frames: {frames}}}
  - {{subject: host, prompt: p, seed: 2, variant: tiny}}
"""
FACTS = PlanFacts(
    today=date(2026, 11, 22),
    photos={"host": (PhotoFacts("photo", 512, 512),)},
    weights={"tiny": "weights"},
)


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def plan(
    text: str | None = None,
    facts: PlanFacts = FACTS,
    *,
    retry: RetryFilter | None = None,
    name: str = "m.yaml",
    only: tuple[tuple[str, str], ...] = (),
    **changed: object,
) -> RenderPlan:
    values = {"prompt": "A dog runs.", "frames": 9, **changed}
    Path(name).write_text(YAML.format(**values) if text is None else text, encoding="utf-8")
    return plan_renders(read_manifest(name), facts, retry=retry, only=only)


def attempt(
    job: RenderJob,
    status: Status = Status.RENDERED,
    code: ErrorCode | None = None,
    message: str = "",
    *,
    deaths: int = 0,
) -> PastResult:
    return PastResult(
        job_id=job.job_id,
        row_key=job.row_key,
        status=status,
        code="" if code is None else code.value,
        message=message,
        clip=job.clip_name if status in {Status.RENDERED, Status.LOW_IDENTITY} else "",
        request=job.request(),
        finished_at="2026-11-21T10:00:00Z",
        deaths=deaths,
    )


def after(*attempts: PastResult, clips_are_there: bool = True) -> PlanFacts:
    return replace(
        FACTS,
        latest={past.row_key: past for past in attempts},
        by_job={past.job_id: past for past in attempts},
        attempts={past.job_id: 2 for past in attempts},
        clips=frozenset(past.clip for past in attempts if past.clip and clips_are_there),
    )


def jobs_of(planned: RenderPlan) -> list[RenderJob]:
    return sorted((p.job for p in planned.to_run), key=lambda job: job.seed)


def test_rows_without_a_past_are_new_and_it_is_their_first_attempt() -> None:
    assert [(p.reason, p.why, p.attempt) for p in plan().to_run] == [(Reason.NEW, "new", 1)] * 2


def test_rendered_rows_whose_clips_are_there_are_done() -> None:
    first, second = jobs_of(plan())
    again = plan(facts=after(attempt(first), attempt(second, Status.LOW_IDENTITY)))
    assert again.to_run == ()
    assert [job.job_id for job in again.done] == [first.job_id, second.job_id]
    assert [job.job_id for job in again.low_identity] == [second.job_id]


def test_a_missing_clip_is_rendered_again() -> None:
    first, _ = jobs_of(plan())
    planned = plan(facts=after(attempt(first), clips_are_there=False)).to_run
    found = next(p for p in planned if p.job.seed == 1)
    assert (found.reason, found.attempt) == (Reason.MISSING_CLIP, 3)
    assert found.why == f"clip missing: {first.clip_name} is no longer in outputs"


def test_a_changed_setting_is_named_with_both_values_and_others_stay_done() -> None:
    first, second = jobs_of(plan())
    again = plan(facts=after(attempt(first), attempt(second)), frames=13)
    assert [(p.reason, p.why) for p in again.to_run] == [
        (Reason.CHANGED, "changed: frames 9 -> 13")
    ]
    assert [job.seed for job in again.done] == [2]


def test_an_edited_prompt_is_named_in_the_rows_that_use_it() -> None:
    first, second = jobs_of(plan())
    again = plan(facts=after(attempt(first), attempt(second)), prompt="A cat runs.")
    assert [p.why for p in again.to_run] == ["changed: prompt 'A dog runs.' -> 'A cat runs.'"] * 2


def test_an_edited_prompt_of_a_table_is_named_although_its_name_changes_too() -> None:
    table = "subject,image,synthetic,prompt,seed,variant\nhost,h.png,true,{},1,tiny\n"
    before = jobs_of(plan(table.format("A dog runs."), name="m.csv"))[0]
    again = plan(table.format("A cat runs."), after(attempt(before)), name="m.csv")
    assert [p.why for p in again.to_run] == ["changed: prompt 'A dog runs.' -> 'A cat runs.'"]


def test_a_row_added_beside_an_old_one_is_new() -> None:
    table = "subject,image,synthetic,prompt,seed,variant\nhost,h.png,true,One.,1,tiny\n"
    before = jobs_of(plan(table, name="m.csv"))[0]
    again = plan(table + "host,,,Two.,1,tiny\n", after(attempt(before)), name="m.csv")
    assert [(p.job.prompt, p.why) for p in again.to_run] == [("Two.", "new")]
    assert len(again.done) == 1


def test_rows_that_share_their_names_do_not_claim_each_others_past() -> None:
    text = YAML.format(prompt="x", frames=9)
    both = text + "  - {subject: host, prompt: p, seed: 1, variant: tiny, steps: 8}\n"
    first, _ = jobs_of(plan(text))
    again = plan(both, after(attempt(first)), only=(("seed", "1"),))
    assert [p.why for p in again.to_run] == ["new"]
    assert [job.job_id for job in again.done] == [first.job_id]


@pytest.mark.parametrize(
    ("status", "code", "message", "reason", "why"),
    [
        (Status.FAILED, ErrorCode.ENCODER, "ffmpeg exit 1\nlong log", Reason.FAILED,
         "failed before (encoder: ffmpeg exit 1)"),
        (Status.FAILED, ErrorCode.INTERNAL, "", Reason.FAILED, "failed before (internal)"),
        (Status.INTERRUPTED, None, "", Reason.INTERRUPTED, "interrupted"),
    ],
)  # fmt: skip
def test_unfinished_rows_run_again_and_say_how_they_ended(
    status: Status, code: ErrorCode | None, message: str, reason: Reason, why: str
) -> None:
    first, _ = jobs_of(plan())
    planned = plan(facts=after(attempt(first, status, code, message))).to_run
    found = next(p for p in planned if p.job.seed == 1)
    assert (found.reason, found.why, found.attempt) == (reason, why, 3)


def test_withheld_and_quarantined_rows_wait_and_say_what_frees_them() -> None:
    first, second = jobs_of(plan())
    held = plan(
        facts=after(
            attempt(first, Status.WITHHELD),
            attempt(second, Status.FAILED, ErrorCode.WORKER_DIED, "killed twice", deaths=2),
        )
    ).held
    assert [(h.job.seed, h.why) for h in held] == [
        (1, "withheld by the safety check; it runs again when its request changes"),
        (2, "quarantined: worker_died: killed twice; `lynx-engine retry` runs it again"),
    ]


def test_a_row_that_killed_one_worker_runs_again_with_that_death_counted() -> None:
    first, second = jobs_of(plan())
    once = attempt(first, Status.FAILED, ErrorCode.WORKER_DIED, "killed", deaths=1)
    planned = plan(facts=after(once, attempt(second)))
    assert planned.held == ()
    assert [(p.reason, p.deaths) for p in planned.to_run] == [(Reason.FAILED, 1)]


def test_deaths_are_forgotten_when_a_person_asks_for_the_row_or_changes_it() -> None:
    first, second = jobs_of(plan())
    past = after(
        attempt(first, Status.FAILED, ErrorCode.WORKER_DIED, deaths=1),
        attempt(second, Status.FAILED, ErrorCode.WORKER_DIED, deaths=QUARANTINE_DEATHS),
    )
    retried_rows = plan(facts=past, retry=RetryFilter()).to_run
    assert sorted((p.job.seed, p.deaths) for p in retried_rows) == [(1, 0), (2, 0)]
    changed = [p for p in plan(facts=past, frames=13).to_run if p.reason is Reason.CHANGED]
    assert [(p.job.seed, p.deaths) for p in changed] == [(1, 0)]


def test_one_death_is_a_failure_to_retry_and_two_are_a_quarantine() -> None:
    first, second = jobs_of(plan())
    once = attempt(first, Status.FAILED, ErrorCode.WORKER_DIED, deaths=1)
    twice = attempt(second, Status.FAILED, ErrorCode.WORKER_DIED, deaths=2)
    assert (status_word(once), status_word(twice)) == ("failed", QUARANTINED)
    other = attempt(second, Status.FAILED, ErrorCode.ENCODER, deaths=2)
    assert status_word(other) == "failed"


def test_a_withheld_row_runs_once_its_request_changes() -> None:
    first, _ = jobs_of(plan())
    again = plan(facts=after(attempt(first, Status.WITHHELD)), frames=13)
    assert again.held == ()
    assert "changed: frames 9 -> 13" in [p.why for p in again.to_run]


def retried(retry: RetryFilter, first: PastResult, second: PastResult) -> dict[int, str]:
    planned = plan(facts=after(first, second), retry=retry)
    assert all(p.reason is Reason.RETRY for p in planned.to_run)
    return {p.job.seed: p.why for p in planned.to_run}


def test_retry_runs_failed_quarantined_and_low_identity_rows_only() -> None:
    one, two = jobs_of(plan())
    dead = attempt(two, Status.FAILED, ErrorCode.WORKER_DIED, deaths=2)
    low = attempt(one, Status.LOW_IDENTITY)
    everything = RetryFilter()
    assert retried(everything, low, dead) == {
        1: "retry: low identity unknown",
        2: "retry: failed before (worker_died)",
    }
    assert retried(RetryFilter(statuses=frozenset({"quarantined"})), low, dead).keys() == {2}
    assert retried(everything, attempt(one), attempt(two, Status.WITHHELD)) == {}
    assert retried(everything, attempt(one, Status.INTERRUPTED), attempt(two)) == {}


def test_retry_can_be_narrowed_by_code_and_row() -> None:
    one, two = jobs_of(plan())
    past = (
        attempt(one, Status.FAILED, ErrorCode.ENCODER),
        attempt(two, Status.FAILED, ErrorCode.DISK),
    )
    assert retried(RetryFilter(codes=frozenset({"disk"})), *past).keys() == {2}
    assert retried(RetryFilter(rows=frozenset({"4"})), *past).keys() == {1}
    assert retried(RetryFilter(rows=frozenset({two.job_id[:8]})), *past).keys() == {2}


@pytest.mark.parametrize(
    ("before", "after_it", "told"),
    [
        ({"frames": 49, "steps": 4}, {"frames": 81, "steps": 8},
         ["frames 49 -> 81", "steps 4 -> 8"]),
        ({"subject_digest": "a"}, {"subject_digest": "b"}, ["subject photo changed"]),
        ({"weights_fingerprint": "a"}, {"weights_fingerprint": "b"}, ["weights changed"]),
        ({}, {"crf": 18}, ["video crf changed"]),
        ({"prompt": "x" * 99}, {"prompt": ""}, [f"prompt {'x' * 39}… -> ''"]),
        ({"prompt": "a\nb"}, {"prompt": "\x1b"}, [r"prompt 'a\nb' -> '\x1b'"]),
        ({"prompt": "x" * 99 + " at dawn."}, {"prompt": "x" * 99 + " at dusk."},
         [f"prompt '…{'x' * 15} at dawn.' -> '…{'x' * 15} at dusk.'"]),
    ],
)  # fmt: skip
def test_changes_are_told_in_the_authors_words(
    before: Mapping[str, str | int], after_it: Mapping[str, str | int], told: list[str]
) -> None:
    assert describe_changes(before, after_it) == told


def test_a_prompt_of_a_table_that_is_edited_twice_is_named_both_times() -> None:
    table = "subject,image,synthetic,prompt,seed,variant\nhost,h.png,true,{},1,tiny\n"
    first = attempt(jobs_of(plan(table.format("A dog runs."), name="m.csv"))[0])
    second = attempt(jobs_of(plan(table.format("A cat runs."), name="m.csv"))[0])
    past = after(replace(second, finished_at="2026-11-22T10:00:00Z"), first)
    again = plan(table.format("A cow runs."), past, name="m.csv")
    assert [p.why for p in again.to_run] == ["changed: prompt 'A cat runs.' -> 'A cow runs.'"]


def test_an_interrupted_row_that_is_edited_says_what_changed() -> None:
    first, _ = jobs_of(plan())
    again = plan(facts=after(attempt(first, Status.INTERRUPTED)), frames=13)
    assert "changed: frames 9 -> 13" in [p.why for p in again.to_run]


def test_renamed_prompts_and_subjects_keep_their_clips() -> None:
    past = after(*(attempt(job) for job in jobs_of(plan())))
    renamed = YAML.format(prompt="A dog runs.", frames=9)
    renamed = (
        renamed.replace("host", "guest").replace("p:", "q:", 1).replace("prompt: p", "prompt: q")
    )
    again = plan(renamed, replace(past, photos={"guest": FACTS.photos["host"]}))
    assert (len(again.to_run), len(again.done)) == (0, 2)


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"photos": {"host": (PhotoFacts("other", 512, 512),)}}, "changed: subject photo changed"),
        ({"weights": {"tiny": "others"}}, "changed: weights changed"),
    ],
)
def test_another_photo_or_other_weights_are_the_reason_told(
    facts: Mapping[str, object], why: str
) -> None:
    past = after(*(attempt(job) for job in jobs_of(plan())))
    assert [p.why for p in plan(facts=replace(past, **facts)).to_run] == [why] * 2  # pyright: ignore[reportArgumentType]


SHARED = """\
subjects: {host: {image: h.png, synthetic: true}}
defaults: {variant: tiny}
rows:
  - {subject: host, text: A person waves., seed: 1}
  - {subject: host, text: A person waves., seed: 1, loras: [{weights: a.st}]}
  - {subject: host, text: A person waves., seed: 1, speed: cache}
"""


def with_lora(facts: PlanFacts, digest: str) -> PlanFacts:
    return replace(facts, loras={Path("a.st"): LoraFacts(Path("/a.st"), digest)})


@pytest.mark.parametrize("latest", [0, 1, 2])
def test_an_edited_lora_is_named_though_other_rows_share_its_names(latest: int) -> None:
    before = [p.job for p in plan(SHARED, with_lora(FACTS, "old")).to_run]
    attempts = [attempt(job) for job in before]
    past = after(*attempts)
    past = replace(past, latest={attempts[0].row_key: attempts[latest]})
    again = plan(SHARED, with_lora(past, "new"))
    assert [p.why for p in again.to_run] == ["changed: loras changed"]
    assert len(again.done) == 2


def test_two_rows_of_the_same_names_edited_at_once_each_tell_their_own_change() -> None:
    both = SHARED + (
        "  - {subject: host, text: A person waves., seed: 1, steps: 9,"
        " loras: [{weights: a.st, scale: 2}]}\n"
    )
    attempts = [attempt(p.job) for p in plan(both, with_lora(FACTS, "old")).to_run]
    again = plan(both, with_lora(after(*attempts), "new"))
    assert [p.why for p in again.to_run] == ["changed: loras changed"] * 2


def test_a_row_added_under_names_that_are_there_is_new() -> None:
    first = plan(SHARED, with_lora(FACTS, "a")).to_run[0].job
    fewer = attempt(replace(first, steps=3, crf=20))
    again = plan(SHARED, with_lora(after(fewer, attempt(first)), "a"))
    assert [p.why for p in again.to_run] == ["new", "new"]
