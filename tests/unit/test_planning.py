"""Planning: complete jobs, the order they run in, and what is refused before any work."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from lynx_engine import planning
from lynx_engine.cli.render import with_memory
from lynx_engine.dispatch import work_of
from lynx_engine.errors import Problem, RefusedError
from lynx_engine.jobs import Lora, RenderPlan
from lynx_engine.manifest.read import read_manifest
from lynx_engine.manifest.values import Manifest, Prompt, Row, WrittenSettings
from lynx_engine.manifest_rules import Rule
from lynx_engine.planning import LoraFacts, PhotoFacts, PlanFacts, plan_renders
from lynx_engine.shapes import FrameSize
from lynx_engine.variants import REGISTRY, get_variant
from tests.support.letters import in_words

HEAD = """\
campaign: c
subjects:
  host: {image: host.png, consent: {basis: contract, expires: 2026-11-22}}
  robo: {image: robo.png, face: largest, synthetic: true}
"""
FACTS = PlanFacts(
    today=date(2026, 11, 22),
    photos={name: (PhotoFacts(f"digest-{name}", 512, 512),) for name in ("host", "robo")},
    weights={name: f"weights-{name}" for name in REGISTRY},
)


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def plan(
    body: str,
    facts: PlanFacts = FACTS,
    *,
    skip_bad_rows: bool = False,
    only: tuple[tuple[str, str], ...] = (),
    limit: int | None = None,
) -> RenderPlan:
    Path("m.yaml").write_text(HEAD + body, encoding="utf-8")
    manifest = read_manifest("m.yaml", lenient=True)
    return plan_renders(manifest, facts, skip_bad_rows=skip_bad_rows, only=only, limit=limit)


def letters(body: str, facts: PlanFacts = FACTS) -> list[str]:
    with pytest.raises(RefusedError) as caught:
        plan(body, facts)
    return [in_words(problem) for problem in caught.value.problems]


def test_a_bare_row_becomes_a_complete_job_from_the_variants_defaults() -> None:
    job = plan("rows: [{subject: robo, text: A robot waves., variant: tiny}]").to_run[0].job
    assert (job.campaign, job.subject, job.where, job.photos) == (
        "c", "robo", "m.yaml:5", (Path("robo.png"),),
    )  # fmt: skip
    assert (job.subject_digest, job.face, job.consent) == ("digest-robo", "largest", "synthetic")
    assert (job.variant, job.weights_fingerprint, job.seed) == ("tiny", "weights-tiny", 0)
    assert (job.size, job.frames, job.fps, job.steps) == (FrameSize(64, 64), 9, 8, 4)
    assert (job.guidance_text, job.guidance_identity) == (5.0, 2.0)
    assert (job.scale_identity, job.scale_reference) == (1.0, 1.0)
    assert (job.precision, job.numerics, job.memory, job.speed) == (
        "float32", "normal", "auto", "exact",
    )  # fmt: skip
    assert (job.label, job.codec, job.crf, job.safety, job.loras) == ("none", "h264", 18, "on", ())


def test_a_row_wins_over_defaults_and_these_over_the_variant() -> None:
    job = plan(
        "defaults: {variant: tiny, steps: 6, frames: 13, video: {crf: 30}, seed: 9}\n"
        "rows: [{subject: host, text: x, steps: 7}]"
    ).to_run[0].job  # fmt: skip
    assert (job.steps, job.frames, job.crf, job.seed, job.fps) == (7, 13, 30, 9, 8)
    assert job.consent == "contract"


def test_settings_without_effect_are_left_aside_from_defaults() -> None:
    jobs = plan(
        "defaults: {guidance_identity: 3.0, scale_reference: 0.5, scale_identity: 0.7}\n"
        "matrix: [{subject: host, text: x, variant: [tiny, tiny_lite]}]"
    ).to_run
    scales = {
        p.job.variant: (p.job.guidance_identity, p.job.scale_identity, p.job.scale_reference)
        for p in jobs
    }
    assert scales == {"tiny": (3.0, 0.7, 0.5), "tiny_lite": (0.0, 0.7, 0.0)}


def test_a_variant_without_identity_needs_no_subject_and_keeps_its_label() -> None:
    jobs = plan(
        "defaults: {variant: wan, safety: acknowledged-off}\n"
        "rows:\n  - {text: x}\n  - {subject: host, text: y}"
    ).to_run
    told = [(p.job.subject, p.job.subject_digest, p.job.face, p.job.photos) for p in jobs]
    assert told == [("none", "", "", ()), ("host", "", "", ())]
    assert {p.job.consent for p in jobs} == {""}


def test_jobs_are_grouped_by_variant_and_shape_with_the_longest_first() -> None:
    planned = plan(
        "defaults: {variant: tiny}\nrows:\n"
        "  - {subject: host, text: a}\n"
        "  - {subject: host, text: b, variant: tiny_lite, frames: 17}\n"
        "  - {subject: host, text: c, frames: 13}\n"
        "  - {subject: host, text: d, variant: tiny_lite}\n"
        "  - {subject: host, text: e, steps: 5}\n"
        "  - {subject: host, text: f, frames: 13}\n"
    ).to_run
    # Work: c and f 13*4*3, e 9*5*3, a 9*4*3; b 17*4*2, d 9*4*2 (all times 64*64).
    assert [p.job.prompt for p in planned] == ["c", "f", "e", "a", "b", "d"]


def test_limit_takes_the_first_of_the_order_and_only_selects_rows() -> None:
    body = "matrix: [{subject: [host, robo], text: x, seed: 1..3, variant: [tiny, tiny_lite]}]"
    assert len(plan(body).to_run) == 12
    assert len(plan(body, limit=5).to_run) == 5
    chosen = plan(body, only=(("subject", "host"), ("seed", "1"), ("seed", "3"))).to_run
    assert {(p.job.subject, p.job.seed) for p in chosen} == {("host", 1), ("host", 3)}
    assert len(chosen) == 4


@pytest.mark.parametrize(
    ("pair", "letter"),
    [
        (("subjct", "host"), "--only: there is no field 'subjct', did you mean 'subject'?"),
        (("subject", "hots"), "--only: no row has subject 'hots', did you mean 'host'?"),
    ],
)
def test_a_selection_that_can_match_nothing_is_refused(pair: tuple[str, str], letter: str) -> None:
    with pytest.raises(RefusedError) as caught:
        plan("rows: [{subject: host, text: x, variant: tiny}]", only=(pair,))
    assert [in_words(problem) for problem in caught.value.problems] == [letter]


@pytest.mark.parametrize(
    ("row", "letter"),
    [
        ("frames: 80", "frames is 80; tiny renders 4k + 1 frames. Use 77 or 81."),
        ("frames: 2", "frames is 2; tiny renders 4k + 1 frames. Use 1 or 5."),
        ("size: 60x70", "size is 60x70; tiny renders sides that are multiples of 16. Use 64x64."),
        ("speed: distilled", "speed is distilled, and what has learned to render in few steps is a "
         "LoRA: none is written. Add loras: [{weights: file.safetensors}], or write speed: exact "
         "or cache"),
        ("label: us", "label is 'us'; it takes none, eu or cn"),
        ("variant: sleeper, speed: cache", "speed is cache; in this version sleeper offers exact"),
        ("variant: sleeper, loras: [{weights: a.st}]",
         "in this version sleeper renders without LoRAs; remove loras"),
        ("loras: [{weights: a.st}]", "LoRA a.st cannot be read; check its path"),
        ("variant: tinny", "there is no variant 'tinny', did you mean 'tiny'?"),
        ("variant: lynx_full", "lynx_full can depict people, and no safety classifier looks at "
         "its frames here. Install one (`pip install 'lynx_engine[safety]'` or `lynx-engine models "
         "pull safety`) and have the setting classifiers allow it, or take responsibility for what "
         "is rendered: write safety: acknowledged-off (it is recorded with every clip)"),
        ("variant: tiny_lite, guidance_identity: 2.0", "guidance_identity has no effect: tiny_lite "
         "has no identity branch. Remove it here (in YAML, defaults may hold it for the variants "
         "that have one)"),
        ("variant: tiny_lite, scale_reference: 1.0", "scale_reference has no effect: tiny_lite has "
         "no reference adapter. Remove it here (in YAML, defaults may hold it for the variants "
         "that have one)"),
    ],
)  # fmt: skip
def test_what_the_variant_cannot_follow_is_refused_at_its_line(row: str, letter: str) -> None:
    variant = "" if "variant" in row else "variant: tiny, "
    assert letters(f"rows:\n  - {{subject: host, text: x, {variant}{row}}}") == [
        f"m.yaml:6: {letter}"
    ]


def test_a_fault_of_the_defaults_is_told_once_at_their_line() -> None:
    found = letters(
        "defaults: {variant: tiny, frames: 80}\nmatrix: [{subject: host, text: x, seed: 1..9}]"
    )
    assert found == ["m.yaml:5: frames is 80; tiny renders 4k + 1 frames. Use 77 or 81."]


def test_a_setting_nobody_wrote_is_blamed_on_the_first_row_it_concerns() -> None:
    found = letters(
        "rows:\n"
        "  - {subject: host, text: x, variant: lynx_lite}\n"
        "  - {subject: host, text: y, variant: lynx_lite, seed: 3}\n"
    )
    assert len(found) == 1
    assert found[0].startswith("m.yaml:6: lynx_lite can depict people")


def test_taking_responsibility_lets_a_variant_that_depicts_people_render() -> None:
    job = plan(
        "rows: [{subject: host, text: x, variant: lynx_full, safety: acknowledged-off}]"
    ).to_run[0].job  # fmt: skip
    assert (job.safety, job.frames, job.guidance_identity) == ("acknowledged-off", 81, 2.0)


def test_a_row_without_variant_is_told_which_there_are() -> None:
    assert letters("rows: [{subject: host, text: x}]") == [
        "m.yaml:5: no variant is written; add one of tiny, tiny_lite, wan, lynx_full, lynx_lite "
        "or sleeper here (in YAML, or under defaults)"
    ]


def test_a_row_without_the_subject_its_variant_needs_is_refused() -> None:
    assert letters("rows: [{text: x, variant: tiny}]") == [
        "m.yaml:5: tiny renders a subject, and none is written; add subject"
    ]


def test_consent_is_needed_to_the_last_day_and_not_beyond() -> None:
    body = "rows: [{subject: host, text: x, variant: tiny}]"
    assert plan(body).to_run
    assert letters(body, replace(FACTS, today=date(2026, 11, 23))) == [
        "m.yaml:3: consent of subject 'host' expired on 2026-11-22; renew it and write the new "
        "date, or remove the subject"
    ]


def test_a_subject_without_consent_is_refused_before_its_photo_is_asked_for() -> None:
    Path("n.yaml").write_text(
        "subjects: {guest: {image: g.png}}\n"
        "matrix: [{subject: guest, text: x, variant: tiny, seed: 1..3}]"
    )
    with pytest.raises(RefusedError) as caught:
        plan_renders(read_manifest("n.yaml"), replace(FACTS, photos={}))
    assert [in_words(problem) for problem in caught.value.problems] == [
        "n.yaml:1: subject 'guest' has no consent; write the basis you hold, as in consent: "
        "{basis: contract} (consent_basis in a table), or synthetic: true for a made-up person"
    ]


def test_problems_of_photos_and_weights_reach_only_the_rows_that_need_them() -> None:
    facts = replace(
        FACTS,
        photos={"robo": FACTS.photos["robo"]},
        photo_problems={"host": (Problem("m.yaml:3", "host.png does not exist", Rule.BAD_PHOTO),)},
        weights={"tiny": "t"},
        weights_problems={"tiny_lite": (Problem("tiny_lite", "weights are missing"),)},
    )
    body = "matrix: [{subject: [host, robo], text: x, variant: [tiny, tiny_lite]}]"
    assert letters(body, facts) == [
        "m.yaml:3: host.png does not exist",
        "m.yaml:5: tiny_lite: weights are missing",
    ]
    left = plan(body, facts, skip_bad_rows=True)
    assert [(p.job.subject, p.job.variant) for p in left.to_run] == [("robo", "tiny")]
    assert [in_words(problem) for problem in left.problems] == letters(body, facts)


def test_two_rows_that_are_one_clip_are_refused_with_both_lines() -> None:
    assert letters(
        "defaults: {variant: tiny}\nrows:\n"
        "  - {subject: host, text: x, seed: 4}\n"
        "  - {subject: host, text: y, seed: 4}\n"
        "  - {subject: host, text: x, seed: 4, frames: 9}\n"
    ) == ["m.yaml:9: rows at m.yaml:7 and m.yaml:9 are one clip; remove one"]


def test_one_photo_under_two_names_makes_one_clip_and_the_names_are_told() -> None:
    Path("n.yaml").write_text(
        "subjects: {ann: {image: a.png, synthetic: true}, eve: {image: b.png, synthetic: true}}\n"
        "matrix: [{subject: [ann, eve], text: x, variant: tiny}]\n"
    )
    same = (PhotoFacts("digest", 512, 512),)
    with pytest.raises(RefusedError) as caught:
        plan_renders(read_manifest("n.yaml"), replace(FACTS, photos={"ann": same, "eve": same}))
    assert [in_words(problem) for problem in caught.value.problems] == [
        "n.yaml:2: two combinations here are one clip, since 'ann' and 'eve' have the same photo; "
        "remove the repeated value, or exclude one"
    ]


def test_subjects_that_a_variant_ignores_make_one_clip() -> None:
    assert letters(
        "matrix: [{subject: [host, robo], text: x, variant: wan, safety: acknowledged-off}]"
    ) == [
        "m.yaml:5: two combinations here are one clip, since wan ignores the subject; remove the "
        "repeated value, or exclude one"
    ]


def test_all_problems_of_all_rows_are_told_at_once_and_skipped_together() -> None:
    body = (
        "defaults: {variant: tiny}\nrows:\n"
        "  - {subject: host, text: fine}\n"
        "  - {subject: host, text: x, frames: 80, size: 60x64}\n"
        "  - {subject: nobody, text: x}\n"
        "  - {subject: host, text: x, stpes: 3}\n"
        "  - {subject: host, text: fine}\n"
    )
    found = letters(body)
    assert [line.split(":")[1] for line in found] == ["8", "8", "9", "10", "11"]
    left = plan(body, skip_bad_rows=True)
    assert [p.job.where for p in left.to_run] == ["m.yaml:7"]
    assert [in_words(problem) for problem in left.problems] == found


def test_a_fault_of_the_whole_file_is_refused_even_when_bad_rows_are_skipped() -> None:
    for fault in ("campain: d\n", "identity: {min_score: 0.5}\n"):
        with pytest.raises(RefusedError):
            plan(
                fault + "rows: [{subject: host, text: x, variant: tiny}]", skip_bad_rows=True
            )  # fmt: skip


GATED = "identity: {min_score: 0.55, attempts: 3}\n"
SCORING = replace(FACTS, evaluator="dlib 20.0 (BSL-1.0)")


def test_a_gate_on_a_machine_without_a_recogniser_that_scores_is_refused_at_its_line() -> None:
    assert letters("rows: [{subject: host, text: x, variant: tiny}]\n" + GATED) == [
        "m.yaml:6: the identity gate needs a recogniser that scores likeness, and this machine has "
        "none; run pip install 'lynx_engine[score]', and have the setting evaluator allow it, or "
        "remove identity"
    ]


def test_a_gate_whose_recogniser_conditions_the_variant_is_refused_once_at_its_line() -> None:
    facts = replace(FACTS, evaluator="facexlib 0.3.0")
    body = "rows:\n" + "".join(
        f"  - {{subject: host, text: x, seed: {n}, variant: lynx_lite, safety: acknowledged-off}}\n"
        for n in (1, 2)
    )
    assert letters(body + GATED, facts) == [
        "m.yaml:8: lynx_lite is conditioned by the recogniser that would score it, facexlib 0.3.0; "
        "set evaluator to another one (dlib comes with pip install 'lynx_engine[score]'), or "
        "remove identity"
    ]


def test_a_gate_stands_in_the_requests_of_rows_with_a_subject_and_in_no_other() -> None:
    body = (
        "defaults: {safety: acknowledged-off}\nrows:\n"
        "  - {subject: host, text: x, variant: tiny}\n"
        "  - {subject: host, text: x, variant: wan}\n"
    )
    free = {p.job.variant: p for p in plan(body, SCORING).to_run}
    gated = {p.job.variant: p for p in plan(GATED + body, SCORING).to_run}
    assert {v: p.job.gate for v, p in gated.items()} == {
        "tiny": "0.55, 3 seeds, best; by dlib 20.0 (BSL-1.0)",
        "wan": "",
    }
    assert gated["wan"].job.job_id == free["wan"].job.job_id
    assert gated["tiny"].job.job_id != free["tiny"].job.job_id
    assert {v: (p.first_try, p.last_try) for v, p in gated.items()} == {
        "tiny": (1, 3),
        "wan": (1, 1),
    }
    assert {p.job.gate for p in free.values()} == {""}


def test_ids_without_a_gate_do_not_depend_on_who_could_score() -> None:
    body = "rows: [{subject: host, text: x, variant: tiny}]"
    ids = {plan(body, facts).to_run[0].job.job_id for facts in (FACTS, SCORING)}
    assert len(ids) == 1


def test_a_plan_counts_the_renderings_it_comes_to_at_most() -> None:
    body = (
        "rows: [{subject: host, text: x, variant: tiny}, {subject: robo, text: y, variant: tiny}]"
    )
    assert plan(body, SCORING).most_renderings == 2
    assert plan(GATED + body, SCORING).most_renderings == 6


def test_a_lora_enters_the_job_by_its_digest_and_its_file_for_the_worker() -> None:
    body = "rows: [{subject: host, text: x, variant: tiny, loras: [{weights: a.st, scale: 0.5}]}]"
    known = {Path("a.st"): LoraFacts(Path("/there/a.st"), "d" * 64)}
    (planned,) = plan(body, replace(FACTS, loras=known)).to_run
    assert planned.job.loras == (Lora("d" * 64, 0.5, Path("/there/a.st")),)
    assert planned.job.request()["loras"] == f"{'d' * 64}@0.5"


def test_a_lora_that_does_not_fit_is_refused_for_its_variant_only() -> None:
    facts = LoraFacts(Path("/a.st"), "d", {"tiny": "LoRA a.st fits no layer of this model"})
    body = (
        "defaults: {loras: [{weights: a.st}]}\n"
        "matrix: [{subject: host, text: x, variant: [tiny, tiny_lite]}]"
    )
    known = replace(FACTS, loras={Path("a.st"): facts})
    assert letters(body, known) == ["m.yaml:5: LoRA a.st fits no layer of this model"]
    assert [p.job.variant for p in plan(body, known, skip_bad_rows=True).to_run] == ["tiny_lite"]


DISTILLED = "subject: host, text: x, speed: distilled, loras: [{weights: a.st}]"
WITH_LORA = replace(FACTS, loras={Path("a.st"): LoraFacts(Path("/a.st"), "d" * 64)})


@pytest.mark.parametrize(("variant", "identity"), [("tiny", 1.0), ("tiny_lite", 0.0)])
def test_a_distilled_row_takes_eight_steps_and_one_branch_without_guidance(
    variant: str, identity: float
) -> None:
    defaults = f"defaults: {{variant: {variant}, guidance_text: 7.0, negative_prompt: bad}}\n"
    body = f"{defaults}rows: [{{{DISTILLED}}}, {{subject: host, text: x, steps: 8}}]"
    exact, distilled = sorted((p.job for p in plan(body, WITH_LORA).to_run), key=work_of)[::-1]
    assert (distilled.speed, distilled.steps) == ("distilled", 8)
    assert (distilled.guidance_text, distilled.guidance_identity) == (1.0, identity)
    assert (distilled.negative_prompt, exact.negative_prompt) == ("", "bad")
    branches = get_variant(variant).branches
    assert get_variant(variant).branches_at(distilled.speed) == ("full",)
    assert work_of(exact) == len(branches) * work_of(distilled)


def test_steps_that_are_written_hold_for_a_distilled_row_too() -> None:
    body = (
        f"defaults: {{variant: tiny, steps: 6}}\nrows: [{{{DISTILLED}}}, {{{DISTILLED}, steps: 5}}]"
    )
    assert [p.job.steps for p in plan(body, WITH_LORA).to_run] == [6, 5]


def test_guidance_in_a_distilled_row_is_refused_as_without_effect() -> None:
    guided = "guidance_text: 5.0, guidance_identity: 2.0, negative_prompt: bad"
    found = letters(f"rows:\n  - {{{DISTILLED}, variant: tiny, {guided}}}", WITH_LORA)
    assert [letter.split(":")[2].split()[0] for letter in found] == [
        "guidance_text", "guidance_identity", "negative_prompt",
    ]  # fmt: skip
    assert all("has no effect: with speed: distilled one branch runs" in x for x in found)


def test_the_recorded_speed_names_method_and_threshold_of_a_cache() -> None:
    body = (
        "defaults: {speed: cache, safety: acknowledged-off}\n"
        "matrix: [{subject: host, text: x, variant: [tiny, wan, lynx_full]}]"
    )
    told = {p.job.variant: p.job.speed for p in plan(body).to_run}
    assert told == {
        "tiny": "cache:first-block-0.2",
        "wan": "cache:first-block-0.05",
        "lynx_full": "cache:first-block-0.05",
    }


def test_two_photos_or_prompts_never_share_a_clip_name() -> None:
    names = [
        p.job.clip_name
        for p in plan(
            "matrix: [{subject: [host, robo], text: [x, y], seed: 1..2, variant: tiny}]"
        ).to_run
    ]
    assert len(set(names)) == 8


def test_a_selection_whose_parts_never_meet_is_refused() -> None:
    with pytest.raises(RefusedError) as caught:
        plan(
            "defaults: {variant: tiny}\nprompts: {p: One., q: Two.}\n"
            "rows: [{subject: host, prompt: p}, {subject: robo, prompt: q}]",
            only=(("subject", "host"), ("prompt", "q")),
        )
    assert [in_words(problem) for problem in caught.value.problems] == [
        "--only: no row has subject host and prompt q together; leave one out"
    ]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("subject: hots, text: x, frames: 80, variant: tiny", ["'hots'", "frames is 80"]),
        ("subject: host, text: x, frames: 80, sed: 1, variant: tiny", ["'sed'", "frames is 80"]),
        ("subject: hots, text: x, variant: tinny", ["'hots'", "no variant 'tinny'"]),
        (
            "subject: host, text: x, variant: tiny, fps: 0, label: us, speed: distilled",
            ["fps is 0", "label", "speed"],
        ),
        ("subject: host, text: x, variant: 5, frames: 80", ["variant is 5"]),
    ],
)
def test_a_row_left_out_for_one_fault_still_tells_its_others(row: str, told: list[str]) -> None:
    found = letters(f"rows:\n  - {{{row}}}\n")
    assert len(found) == len(told)
    for words in told:
        assert any(letter.startswith("m.yaml:6: ") and words in letter for letter in found)


def test_a_table_row_left_out_for_its_names_still_tells_its_settings() -> None:
    Path("m.csv").write_text(
        "subject,image,synthetic,prompt,variant,frames\nhost,h.png,yes please,A walk.,tiny,80\n"
    )
    with pytest.raises(RefusedError) as caught:
        plan_renders(read_manifest("m.csv", lenient=True), FACTS)
    told = [in_words(problem) for problem in caught.value.problems]
    assert len(told) == 2
    assert any("synthetic" in letter for letter in told)
    assert any("frames is 80" in letter for letter in told)


def test_missing_weights_are_told_beside_the_other_faults_of_the_row() -> None:
    lost = (Problem("lynx_full", "its weights are missing"),)
    facts = replace(FACTS, weights={}, weights_problems={"lynx_full": lost})
    found = letters("rows:\n  - {subject: host, text: x, variant: lynx_full, frames: 80}\n", facts)
    assert any("frames is 80" in letter for letter in found)
    assert any("m.yaml:6: lynx_full: its weights are missing" in letter for letter in found)
    assert any("safety: acknowledged-off" in letter for letter in found)


@pytest.mark.parametrize("tier", ["auto", "resident", "balanced", "low"])
def test_memory_tier_reaches_the_job_and_leaves_its_id(tier: str) -> None:
    row = "rows:\n  - {subject: host, text: x, variant: tiny"
    (with_tier,) = plan(f"{row}, memory: {tier}}}").to_run
    (without,) = plan(f"{row}}}").to_run
    assert with_tier.job.memory == tier
    assert with_tier.job.job_id == without.job.job_id


def test_lowvram_renders_every_row_low_and_leaves_the_ids() -> None:
    rows = "rows:\n  - {subject: host, text: x, variant: tiny}\n  - {subject: host, text: y, "
    planned = plan(f"{rows}variant: tiny, memory: resident}}")
    low = with_memory(planned, "low")
    assert [p.job.memory for p in low.to_run] == ["low", "low"]
    assert [p.job.job_id for p in low.to_run] == [p.job.job_id for p in planned.to_run]


def test_settings_are_judged_once_however_many_rows_share_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judged: list[object] = []
    complete = planning.complete

    def counted(row: Any, *rest: Any, **more: Any) -> Any:
        judged.append(row)
        return complete(row, *rest, **more)

    monkeypatch.setattr(planning, "complete", counted)
    settings = WrittenSettings(variant="sleeper")
    rows = tuple(Row(f"m.csv:{n}", None, Prompt("p", "A walk."), n, settings) for n in range(500))
    facts = PlanFacts(today=date(2026, 1, 1), weights={"sleeper": "w"})
    plan = plan_renders(Manifest("trial", "m.csv", {}, rows), facts)
    assert len(plan.to_run) == 500
    assert len(judged) == 1
