"""The rules of consent: each setting against each state, and what a withdrawal reaches."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from lynx_engine.consent import Standing, Withdrawal, Withdrawals, consent_text, standing_of
from lynx_engine.errors import RefusedError
from lynx_engine.jobs import RenderPlan
from lynx_engine.manifest.read import read_manifest
from lynx_engine.manifest.values import Consent, Subject
from lynx_engine.manifest_rules import Rule
from lynx_engine.planning import PhotoFacts, PlanFacts, plan_renders
from lynx_engine.variants import REGISTRY
from tests.support.letters import in_words

TODAY = date(2026, 11, 22)
EVIDENCE = "contracts/host.pdf"


def subject(
    expires: date | None = None, *, consent: bool = True, synthetic: bool = False
) -> Subject:
    written = Consent("contract", "web", expires, EVIDENCE) if consent else None
    return Subject("host", (Path("h.png"),), "only", synthetic, written, "m.yaml:3")


STATES = {
    "synthetic": subject(consent=False, synthetic=True),
    "endless": subject(),
    "last day": subject(TODAY),
    "none": subject(consent=False),
    "expired": subject(date(2026, 11, 21)),
}
EXPECTED = {
    ("required", "synthetic"): ("synthetic", "", ""),
    ("required", "endless"): ("contract", "", ""),
    ("required", "last day"): ("contract", "", ""),
    ("required", "none"): ("none", "has no consent; write the basis you hold", ""),
    ("required", "expired"): ("expired 2026-11-21", "expired on 2026-11-21; renew it", ""),
    ("warn", "synthetic"): ("synthetic", "", ""),
    ("warn", "endless"): ("contract", "", ""),
    ("warn", "last day"): ("contract", "", ""),
    ("warn", "none"): ("none (warn)", "", "subject 'host' has no consent; its rows run"),
    ("warn", "expired"): ("expired 2026-11-21 (warn)", "", "expired on 2026-11-21; its rows run"),
    ("off", "synthetic"): ("synthetic", "", ""),
    ("off", "endless"): ("unchecked", "", ""),
    ("off", "last day"): ("unchecked", "", ""),
    ("off", "none"): ("unchecked", "", ""),
    ("off", "expired"): ("unchecked", "", ""),
}


@pytest.mark.parametrize(("setting", "state"), EXPECTED)
def test_each_setting_answers_each_state(setting: str, state: str) -> None:
    word, refusal, warning = EXPECTED[setting, state]
    found = standing_of(STATES[state], TODAY, setting=setting)
    assert found.word == word
    assert refusal in found.refusal
    assert warning in found.warning
    assert (bool(found.refusal), bool(found.warning)) == (bool(refusal), bool(warning))


@pytest.mark.parametrize("setting", ["required", "warn", "off"])
@pytest.mark.parametrize("state", STATES)
def test_a_withdrawal_outweighs_every_setting_and_state(setting: str, state: str) -> None:
    found = standing_of(STATES[state], TODAY, setting=setting, withdrawn="took it back")
    assert found == Standing("withdrawn", refusal="took it back", rule=Rule.WITHDRAWN_CONSENT)


@pytest.mark.parametrize("setting", ["required", "warn", "off"])
def test_the_evidence_is_in_no_word_of_ours(setting: str) -> None:
    for state in STATES.values():
        assert EVIDENCE not in str(standing_of(state, TODAY, setting=setting))


GIVEN = Withdrawals((Withdrawal("Host", ("photo-1", "photo-2"), "key-a", "2026-11-20T10:00:00"),))


def test_a_withdrawn_name_counts_in_any_case_and_with_any_photo() -> None:
    for photos in ((), ("photo-9",), ("photo-1",)):
        why = GIVEN.against("hOST", photos, "key-a")
        assert why.startswith("subject 'Host' withdrew consent on 2026-11-20; remove the subject.")


def test_a_withdrawn_photo_counts_under_another_name() -> None:
    why = GIVEN.against("guest", ("photo-9", "photo-2"), "key-a")
    assert why.startswith("a photo of subject 'guest' shows 'Host', who withdrew consent")
    assert GIVEN.against("guest", ("photo-9",), "key-a") == ""


def test_with_the_key_lost_nobody_renders_since_nobody_can_be_told_apart() -> None:
    for key in ("key-b", ""):
        assert "nobody can tell whether subject 'guest' is 'Host'" in GIVEN.against(
            "guest", (), key
        )
    nameless = Withdrawals((replace(GIVEN.entries[0], photos=()),))
    assert nameless.against("guest", ("photo-9",), "key-b") == ""


MANIFEST = """\
campaign: c
subjects:
  host: {image: host.png}
  guest: {image: guest.png, consent: {basis: contract, expires: 2026-11-30}}
matrix: [{subject: [host, guest], text: x, variant: tiny, seed: 1..3}]
"""


def plan(folder: Path, *, skip_bad_rows: bool = False, **facts: object) -> RenderPlan:
    path = folder / "m.yaml"
    path.write_text(MANIFEST)
    known = PlanFacts(
        today=TODAY,
        photos={name: (PhotoFacts(name, 512, 512),) for name in ("host", "guest")},
        weights={name: f"weights-{name}" for name in REGISTRY},
    )
    read = read_manifest(str(path), lenient=True)
    return plan_renders(read, replace(known, **facts), skip_bad_rows=skip_bad_rows)  # pyright: ignore[reportArgumentType]


def test_warn_plans_every_row_and_notes_a_subject_once(tmp_path: Path) -> None:
    planned = plan(tmp_path, consent="warn")
    assert [in_words(warning) for warning in planned.warnings] == [
        f"{tmp_path}/m.yaml:3: subject 'host' has no consent; its rows run, as consent is warn"
    ]
    words = sorted({(p.job.subject, p.job.consent) for p in planned.to_run})
    assert words == [("guest", "contract"), ("host", "none (warn)")]
    assert len(planned.to_run) == 6


def test_off_plans_every_row_and_records_that_nobody_asked(tmp_path: Path) -> None:
    planned = plan(tmp_path, consent="off")
    assert planned.warnings == ()
    assert {(p.job.consent, p.job.consent_expires) for p in planned.to_run} == {("unchecked", None)}


def test_a_row_carries_the_day_its_consent_ends(tmp_path: Path) -> None:
    planned = plan(tmp_path, skip_bad_rows=True)
    assert {p.job.consent_expires for p in planned.to_run} == {date(2026, 11, 30)}


def test_skipping_bad_rows_leaves_out_just_the_subject_without_consent(tmp_path: Path) -> None:
    with pytest.raises(RefusedError):
        plan(tmp_path)
    planned = plan(tmp_path, skip_bad_rows=True)
    assert {p.job.subject for p in planned.to_run} == {"guest"}
    assert [problem.where for problem in planned.problems] == [f"{tmp_path}/m.yaml:3"]


@pytest.mark.parametrize("setting", ["required", "warn", "off"])
def test_a_withdrawn_subject_is_refused_at_plan_under_every_setting(
    tmp_path: Path, setting: str
) -> None:
    planned = plan(
        tmp_path, skip_bad_rows=True, consent=setting, withdrawn={"guest": "guest took it back"}
    )
    assert "guest" not in {p.job.subject for p in planned.to_run}
    assert "guest took it back" in [problem.text for problem in planned.problems]


def test_any_other_word_of_a_consent_is_another_consent() -> None:
    one = subject(TODAY)
    assert one.consent is not None
    changes: list[Subject] = [
        replace(one, name="guest"),
        *(
            replace(one, consent=replace(one.consent, **change))
            for change in ({"basis": "x"}, {"scope": ""}, {"expires": None}, {"evidence": "x"})
        ),
    ]
    texts = [consent_text(each) for each in (one, *changes)]
    assert len(set(texts)) == len(texts)
    assert consent_text(replace(one, where="moved.yaml:9")) == texts[0]
    assert consent_text(subject(consent=False)) == ""


def test_job_carries_the_consent_for_its_mark_and_shows_it_nowhere() -> None:
    from lynx_engine.provenance.record import consent_id
    from tests.support.jobs import make_job, record_of

    text = consent_text(subject(TODAY))
    job = make_job(consent_written=text, consent_expires=TODAY)
    assert EVIDENCE not in repr(job)
    record = record_of(job)
    assert (record.consent_id, record.consent_expires) == (
        consent_id(text, b"k" * 32),
        "2026-11-22",
    )
    assert EVIDENCE not in repr(record)
    assert consent_id(text, b"another key") != record.consent_id
    assert record_of(make_job()).consent_id == ""
