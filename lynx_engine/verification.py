"""Holds what lies in outputs against what the log says of it: log files, clips, tags, credentials.

It reads and changes nothing. What mends the damage is `mending.py`'s business, and whether a clip
can be rendered again to the same frames `rerendering.py`'s.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from lynx_engine.digest import digest_file
from lynx_engine.errors import Problem, RefusedError, RowError
from lynx_engine.media.video import decode_clip
from lynx_engine.provenance.published import published_records, readable_records
from lynx_engine.provenance.store import FOLDER as LOG_FOLDER
from lynx_engine.survey import CLIPS_FOLDER

if TYPE_CHECKING:
    from lynx_engine.provenance.trace import Record
    from lynx_engine.settings import Settings

_PART = re.compile(r"([1-9][0-9]{0,5})/([1-9][0-9]{0,5})")


class Fault(StrEnum):
    """What is wrong with a file.

    Attributes:
        LOG: A file of the log is damaged, missing or foreign.
        MISSING: A published clip is not there.
        UNREADABLE: The system does not let it be read.
        BYTES: A clip's size or sha256 is not the recorded one.
        FRAMES: It decodes to other frames than recorded, or does not decode.
        TAGS: Its metadata does not name its job.
        CREDENTIAL: Its signed credential is missing, broken or another one.
        PIXELS: It was rendered again under the same conditions, and came out otherwise.
    """

    LOG = "log"
    MISSING = "missing"
    UNREADABLE = "unreadable"
    BYTES = "bytes"
    FRAMES = "frames"
    TAGS = "tags"
    CREDENTIAL = "credential"
    PIXELS = "pixels"


@dataclass(frozen=True, slots=True)
class Damage:
    """One thing that is not as it was recorded.

    Attributes:
        campaign: Campaign name.
        fault: The kind of damage.
        path: The file.
        text: What is wrong with it.
        record: The clip's record; None for a file of the log.
    """

    campaign: str
    fault: Fault
    path: str
    text: str
    record: Record | None = None

    @property
    def problem(self) -> Problem:
        """The damage as a letter."""
        return Problem(self.path, self.text)


@dataclass(frozen=True, slots=True)
class Part:
    """The Kth of N parts of all clips; N runs together look at each clip exactly once.

    Attributes:
        number: K, from 1.
        of: N.
    """

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Part:
        """Read `K/N`.

        Raises:
            ValueError: With a letter, if `text` is nothing of the kind.
        """
        found = _PART.fullmatch(text)
        if found is None or int(found[1]) > int(found[2]):
            raise ValueError(f"'{text}' is no part; write K/N with K from 1 to N, as in 1/7")
        return cls(int(found[1]), int(found[2]))

    def holds(self, identifier: str) -> bool:
        """Return whether a job id, or the name of a stray file, is in this part, on any day."""
        digest = hashlib.sha256(identifier.encode(errors="surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") % self.of == self.number - 1


@dataclass(frozen=True, slots=True)
class Inventory:
    """What one campaign should hold, and what it holds besides.

    Attributes:
        campaign: Campaign name.
        folder: Its folder.
        log_files: Whole files of its log.
        records: Attempts on record.
        clips: File name -> record of the published clips to look at.
        strays: Files among the clips that no record names, of the part that is looked at.
        damage: What is wrong with the log.
    """

    campaign: str
    folder: Path
    log_files: int
    records: int
    clips: dict[str, Record]
    strays: tuple[Path, ...] = ()
    damage: tuple[Damage, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one look at a clip.

    Attributes:
        damage: What is wrong, None if nothing is.
        remark: What a person should know of an undamaged one, or "".
    """

    damage: Damage | None = None
    remark: str = ""


@dataclass(frozen=True, slots=True)
class CampaignState:
    """What a campaign looks like.

    Attributes:
        inventory: What it should hold.
        damage: What is wrong with log and clips, in this order, clips by name.
        remarks: What a person should know that is no damage.
    """

    inventory: Inventory
    damage: tuple[Damage, ...]
    remarks: tuple[str, ...]


def take_inventory(campaign: str, settings: Settings, part: Part | None = None) -> Inventory:
    """Return what a campaign should hold, as far as its log can be read.

    Args:
        campaign: Its name.
        settings: Folders.
        part: Look at this part of its clips only.
    """
    part = part or Part()
    folder = settings.campaign_dir(campaign)
    # Before the log, as a campaign that renders publishes meanwhile.
    present = sorted(_files_in(folder / CLIPS_FOLDER))
    log, files, problems = readable_records(folder / LOG_FOLDER)
    published = published_records(log)
    strays = [path for path in present if path.name not in published and part.holds(path.name)]
    if strays:  # a clip has its name a moment before its record
        named = published_records(readable_records(folder / LOG_FOLDER)[0])
        strays = [path for path in strays if path.name not in named and path.exists()]
    return Inventory(
        campaign=campaign,
        folder=folder,
        log_files=files,
        records=log.height,
        clips={name: r for name, r in sorted(published.items()) if part.holds(r["job_id"])},
        strays=tuple(strays),
        damage=tuple(Damage(campaign, Fault.LOG, p.where, p.text) for p in problems),
    )


def _files_in(folder: Path) -> Iterator[Path]:
    try:
        yield from folder.iterdir()
    except FileNotFoundError:
        return


def verify(
    inventories: Sequence[Inventory],
    settings: Settings,
    *,
    deep: bool = False,
    on_clip: Callable[[], None] = lambda: None,
) -> tuple[CampaignState, ...]:
    """Look at every clip of some campaigns, on all cores.

    Args:
        inventories: What to look at.
        settings: Folders, and whom to trust as signer.
        deep: Decode every clip, and compare its frames.
        on_clip: Called in this thread, once for each clip that was looked at.

    Returns:
        A state for each inventory, in their order.
    """
    settings, untrusting = _with_roots(settings)
    found: dict[tuple[str, str], Finding] = {}
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        look = partial(look_at_clip, settings=settings, deep=deep)
        asked = {
            threads.submit(look, inventory, name): (inventory.campaign, name)
            for inventory in inventories
            for name in inventory.clips
        }
        for done in as_completed(asked):
            found[asked[done]] = done.result()
            on_clip()
    states: list[CampaignState] = []
    for inventory in inventories:
        findings = {name: found[inventory.campaign, name] for name in inventory.clips}
        findings = _looked_at_again(inventory, findings, settings, deep=deep)
        states.append(
            CampaignState(
                inventory,
                (*inventory.damage, *(f.damage for f in findings.values() if f.damage)),
                (
                    *(f.remark for f in findings.values() if f.remark),
                    *([untrusting] if untrusting and _has_signed(inventory) else []),
                ),
            )
        )
    return tuple(states)


def _with_roots(settings: Settings) -> tuple[Settings, str]:
    """Return settings by which credentials can be read, and what is wrong with the given ones.

    Without roots nobody is known as signer; all else of a clip is checked as ever.
    """
    if settings.credentials is None:
        return settings, ""
    from lynx_engine.provenance.certificates import read_roots

    try:
        read_roots(settings.workspace / settings.credentials)
    except RefusedError as error:
        why = "; ".join(str(problem) for problem in error.problems)
        told = f"nobody is trusted as signer, as the roots cannot be read: {why}"
        return settings.model_copy(update={"credentials": None}), told
    return settings, ""


def _has_signed(inventory: Inventory) -> bool:
    return any(record["credential"] for record in inventory.clips.values())


def _looked_at_again(
    inventory: Inventory, findings: dict[str, Finding], settings: Settings, *, deep: bool
) -> dict[str, Finding]:
    """Return the findings without those that a run has overtaken, which replaced the clip."""
    if not any(finding.damage for finding in findings.values()):
        return findings
    now = published_records(readable_records(inventory.folder / LOG_FOLDER)[0])
    again = replace(inventory, clips=now)
    for name, finding in list(findings.items()):
        if finding.damage is None or now.get(name) == inventory.clips[name]:
            continue
        if name in now:
            findings[name] = look_at_clip(again, name, settings=settings, deep=deep)
        else:
            findings[name] = Finding()
    return findings


def look_at_clip(inventory: Inventory, name: str, *, settings: Settings, deep: bool) -> Finding:
    """Hold one clip against its record; the first thing that is wrong is told.

    Raises:
        RefusedError: If the settings of credentials are wrong, which `verify` has made sure of.
    """
    record, path = inventory.clips[name], inventory.folder / CLIPS_FOLDER / name

    def damaged(fault: Fault, text: str) -> Finding:
        return Finding(Damage(inventory.campaign, fault, str(path), text, record))

    try:
        if text := _other_bytes(path, record):
            return damaged(Fault.BYTES, text)
    except FileNotFoundError:
        return damaged(Fault.MISSING, "is not there.")
    except OSError as error:
        return damaged(Fault.UNREADABLE, f"cannot be read ({error.strerror}).")
    labels = str(record["labels_applied"]).split(",")
    finding = Finding()
    if "tags" in labels and (text := _other_tags(path, record)):
        finding = damaged(Fault.TAGS, text)
    elif deep and (text := _other_frames(path, record)):
        finding = damaged(Fault.FRAMES, text)
    elif "c2pa" in labels:
        finding = _look_at_credential(path, record, settings, damaged)
    return finding


def _other_bytes(path: Path, record: Record) -> str:
    size = path.stat().st_size
    if size != record["clip_bytes"]:
        return f"has {size:,} bytes; {record['clip_bytes']:,} were recorded."
    if digest_file(path) != record["clip_digest"]:
        return "damaged: its bytes are not those that were recorded."
    return ""


def _other_frames(path: Path, record: Record) -> str:
    try:
        decoded = decode_clip(path)
    except RowError as error:
        return str(error)
    got = (decoded.frames, str(decoded.size), decoded.fps)
    asked = (record["clip_frames"], record["clip_size"], record["clip_fps"])
    if got != asked:
        return (
            f"decodes to {got[0]} frames of {got[1]} at {got[2]:g} fps; {asked[0]} of {asked[1]} "
            f"at {asked[2]:g} were recorded."
        )
    if decoded.frames_digest != record["frames_digest"]:
        return "decodes to other frames than were recorded."
    return ""


def _other_tags(path: Path, record: Record) -> str:
    from lynx_engine.media.tags import read_tags
    from lynx_engine.provenance.labels import job_id_in

    try:
        tags = read_tags(path)
    except RowError as error:
        return str(error)
    if job_id_in(tags) != record["job_id"]:
        return f"its comment tag does not name job {record['job_id']}."
    if _produce_id(tags.get("AIGC", "")) != record["job_id"]:
        return f"its AIGC tag does not name job {record['job_id']}."
    return ""


def _produce_id(text: str) -> object:
    try:
        told: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, object]", told).get("ProduceID") if isinstance(told, dict) else None


def _look_at_credential(
    path: Path, record: Record, settings: Settings, damaged: Callable[[Fault, str], Finding]
) -> Finding:
    """Check the credential of a clip whose bytes are those that were recorded."""
    from lynx_engine.provenance.credentials import CredentialKind, read_credential

    found = read_credential(path, settings=settings)
    if found.state is CredentialKind.NONE:
        return damaged(Fault.CREDENTIAL, "has no signed credential, and one was recorded.")
    if found.identifier != record["credential"]:
        text = f"its credential is {found.identifier}; {record['credential']} was recorded."
        return damaged(Fault.CREDENTIAL, text)
    if found.state is CredentialKind.INVALID:
        why = "; ".join(found.problems) or "the reader does not say why"
        if found.not_after is not None and found.not_after < datetime.now(UTC):
            # Nothing was changed: its certificate ended, and it carries no time stamp.
            day = f"{found.not_after:%Y-%m-%d}"
            text = f"{path}: its credential holds no more since its certificate ended on {day}."
            return Finding(remark=text)
        return damaged(Fault.CREDENTIAL, f"its credential is invalid: {why}.")
    return Finding()


def damaged_clips(campaign: str, settings: Settings) -> frozenset[str]:
    """Return the names of published clips that are missing or hold other bytes than recorded.

    Reads every one of them. Files of the log that cannot be read are passed over.
    """
    inventory = take_inventory(campaign, settings)
    (state,) = verify([inventory], settings)
    return frozenset(str(d.record["clip"]) for d in state.damage if d.record is not None)
