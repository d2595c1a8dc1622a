"""The right to a face: what a subject's written consent is worth on a day, and who took it back.

Pure rules. Where withdrawals are kept is `identity/withdrawals.py`; who asks is planning, for every
row, and the campaign, again before it renders one.

| | required | warn | off |
|---|---|---|---|
| `synthetic: true` | renders, "synthetic" | renders, "synthetic" | renders, "synthetic" |
| consent that holds | renders, its basis | renders, its basis | renders, "unchecked" |
| none | refused | renders with a note, "none (warn)" | renders, "unchecked" |
| expired | refused | renders with a note, "expired 2026-01-01 (warn)" | renders, "unchecked" |
| withdrawn | refused | refused | refused |

The words in quotes are what the record's column `consent` says. A withdrawal is a person's word,
and no setting of the program outweighs it; it holds against `synthetic: true`, too.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime

from lynx_engine.manifest.values import Subject
from lynx_engine.manifest_rules import Rule

REQUIRED = "required"
WARN = "warn"
OFF = "off"

SYNTHETIC = "synthetic"
UNCHECKED = "unchecked"


def utc_today() -> date:
    """Return the day by which consent is judged: one holds to the end of its last day, UTC."""
    return datetime.now(UTC).date()


@dataclass(frozen=True, slots=True)
class Standing:
    """What stands behind the use of a face.

    Attributes:
        word: What the record says.
        refusal: Why the face must not be used, or "".
        rule: The rule of manifests that is broken where it is refused or warned of, or None.
        warning: What a person should know who lets it be used all the same, or "".
    """

    word: str
    refusal: str = ""
    rule: Rule | None = None
    warning: str = ""


def standing_of(
    subject: Subject, today: date, *, setting: str = REQUIRED, withdrawn: str = ""
) -> Standing:
    """Return what a subject's consent is worth; to be asked before the face is read.

    Args:
        subject: With its consent as written. The evidence it names is text and nothing else: it is
            never opened, and a record tells only a keyed mark of it (`consent_text`).
        today: The day, UTC; `expires` is the last day on which a consent holds.
        setting: required, warn or off.
        withdrawn: Why the subject counts as withdrawn, or "".
    """
    if withdrawn:
        return Standing("withdrawn", refusal=withdrawn, rule=Rule.WITHDRAWN_CONSENT)
    if subject.synthetic:
        return Standing(SYNTHETIC)
    if setting == OFF:
        return Standing(UNCHECKED)
    if subject.consent is None:
        return _lacking(
            "none",
            Rule.NO_CONSENT,
            setting,
            f"subject '{subject.name}' has no consent",
            "write the basis you hold, as in consent: {basis: contract} (consent_basis in a "
            "table), or synthetic: true for a made-up person",
        )
    expires = subject.consent.expires
    if is_over(expires, today):
        return _lacking(
            f"expired {expires}",
            Rule.EXPIRED_CONSENT,
            setting,
            f"consent of subject '{subject.name}' expired on {expires}",
            "renew it and write the new date, or remove the subject",
        )
    return Standing(subject.consent.basis)


def consent_text(subject: Subject) -> str:
    """Return what the manifest wrote of a subject's consent as one text; "" if it wrote none.

    The record's `consent_id` is a keyed mark of it: any other name, basis, scope, last day or
    evidence is another consent. The evidence is taken as it is written; no file is opened.
    """
    if subject.consent is None:
        return ""
    written = subject.consent
    expires = "" if written.expires is None else written.expires.isoformat()
    return json.dumps([subject.name, written.basis, written.scope, expires, written.evidence])


def is_over(expires: date | None, today: date) -> bool:
    """Return whether a consent whose last day is `expires` has ended; None never ends."""
    return expires is not None and expires < today


def warned_word(expires: date) -> str:
    """Return what the record of a row says whose consent ended on the way, under `warn`."""
    return f"expired {expires} ({WARN})"


def _lacking(state: str, rule: Rule, setting: str, fault: str, advice: str) -> Standing:
    if setting == WARN:
        text = f"{fault}; its rows run, as consent is warn"
        return Standing(f"{state} ({WARN})", rule=rule, warning=text)
    return Standing(state, refusal=f"{fault}; {advice}", rule=rule)


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """A person's word that their face is not to be rendered any more.

    Attributes:
        subject: The name it was given under.
        photos: Keyed digests of what showed them: each photo, and all photos of a row together.
        key: Mark of the workspace key that these are keyed with.
        at: UTC, ISO 8601, to the second.
    """

    subject: str
    photos: tuple[str, ...]
    key: str
    at: str


@dataclass(frozen=True, slots=True)
class Withdrawals:
    """Every withdrawal of a workspace.

    Attributes:
        entries: In the order they were given.
        serial: Counts the changes, for telling a copy from an older one.
    """

    entries: tuple[Withdrawal, ...] = ()
    serial: int = 0

    def against(self, subject: str, photos: Collection[str], key: str) -> str:
        """Return why a subject counts as withdrawn, or "".

        A name counts in every manifest of the workspace, in whatever case: a new photo gives no
        new right. A photo counts under every name. Photos that were keyed with another key can be
        compared with none of today's, so any subject may be theirs, and every one is refused.

        Args:
            subject: Name in the manifest.
            photos: Keyed digests of its photos.
            key: Mark of the key they were keyed with, "" if there is none yet.
        """
        for entry in self.entries:
            day = entry.at.partition("T")[0]
            back = f"`lynx-engine forget {entry.subject} --restore` takes the withdrawal back"
            if entry.subject.casefold() == subject.casefold():
                return (
                    f"subject '{entry.subject}' withdrew consent on {day}; remove the subject. "
                    f"With a new consent, {back}; somebody else needs another name"
                )
            if entry.key == key and not set(entry.photos).isdisjoint(photos):
                return (
                    f"a photo of subject '{subject}' shows '{entry.subject}', who withdrew consent "
                    f"on {day}; remove the subject. With a new consent, {back}"
                )
        for entry in self.entries:
            if entry.photos and entry.key != key:
                return (
                    f"nobody can tell whether subject '{subject}' is '{entry.subject}', who "
                    "withdrew consent: the photos were noted with a workspace key that is not here "
                    "any more. Put .lynx/workspace.key back; or note the withdrawal anew with "
                    f"`lynx-engine forget {entry.subject} --restore` and then `--withdraw` with "
                    "`--manifest`, as records here know the photos by the lost key only"
                )
        return ""
