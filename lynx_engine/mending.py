"""Says what mends the damage that verification found: the very lines to run.

It changes nothing. A clip is mended by rendering its row again, a log by taking out what cannot be
read, after which the rows whose record is gone render again.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lynx_engine.errors import LynxError
from lynx_engine.identity.withdrawals import read_withdrawals
from lynx_engine.manifest.read import SUFFIXES, read_manifest
from lynx_engine.planning import plan_renders
from lynx_engine.provenance.files import INDEX
from lynx_engine.provenance.store import FOLDER as LOG_FOLDER
from lynx_engine.survey import gather_facts
from lynx_engine.verification import CampaignState, Fault

if TYPE_CHECKING:
    from lynx_engine.provenance.trace import Record
    from lynx_engine.settings import Settings

MANIFEST = "MANIFEST"
"""Stands for a manifest that nobody finds any more."""

_TAKEN_OUT = "damaged"


def without_deleted(state: CampaignState, settings: Settings) -> CampaignState:
    """Return a state without the clips that somebody deleted, and nobody asks for any more.

    Those of a subject who withdrew consent, and those whose row is no longer in the manifest, are
    gone for a reason: they become remarks, and are no longer among its clips.

    Raises:
        DamagedError: If the register of withdrawals is damaged.
        RefusedError: If the settings are wrong.
    """
    missing = {
        id(damage): (damage, damage.record)
        for damage in state.damage
        if damage.fault is Fault.MISSING and damage.record is not None
    }
    if not missing:
        return state
    withdrawn = {entry.subject.casefold() for entry in read_withdrawals(settings).entries}
    asked = _Asked(settings)
    remarks: dict[int, str] = {}
    for number, (damage, record) in missing.items():
        if str(record["subject"]).casefold() in withdrawn:
            remarks[number] = f"{damage.path}: gone; its subject withdrew consent."
        elif not asked.is_asked(record):
            remarks[number] = (
                f"{damage.path}: gone; its row is not in the manifest any more. `lynx-engine show "
                f"{record['job_id'][:12]} --manifest` writes what makes it again."
            )
    gone = {str(missing[number][1]["clip"]) for number in remarks}
    clips = {name: kept for name, kept in state.inventory.clips.items() if name not in gone}
    return replace(
        state,
        inventory=replace(state.inventory, clips=clips),
        damage=tuple(damage for damage in state.damage if id(damage) not in remarks),
        remarks=(*state.remarks, *remarks.values()),
    )


def mending_lines(states: Sequence[CampaignState], settings: Settings) -> list[str]:
    """Return what to run, in this order, to mend all damage; a `#` begins a line of words.

    Raises:
        RefusedError: If the settings are wrong.
    """
    asked = _Asked(settings)
    lines: list[str] = []
    for state in states:
        lines += _log_lines(state, asked)
        again: dict[str, None] = {}
        for damage in state.damage:
            if damage.record is None or damage.fault is Fault.PIXELS:
                continue
            if asked.is_asked(damage.record):
                manifest = asked.manifest_of(damage.record)
                again[f"lynx-engine retry {_quoted(manifest)} --damaged"] = None
            else:
                lines += _unasked_lines(damage.record)
        lines += again
    if any(MANIFEST in shlex.split(line, comments=True) for line in lines):
        lines.append(f"# {MANIFEST} stands for a manifest that is not where it was.")
    return lines


def _log_lines(state: CampaignState, asked: _Asked) -> Iterator[str]:
    """Yield how the log becomes readable, and what it forgot known again."""
    problems = [damage for damage in state.damage if damage.fault is Fault.LOG]
    if not problems:
        return
    folder = state.inventory.folder
    log, out = folder / LOG_FOLDER, folder / _TAKEN_OUT
    places = (damage.path.removesuffix(_line_of(damage.path)) for damage in problems)
    named = dict.fromkeys(map(Path, places))
    files = [path for path in (*named, log / INDEX) if path.parent == log and path.exists()]
    if files:
        files = list(dict.fromkeys(files))
        words = " ".join(shlex.quote(str(path)) for path in files)
        yield f"mkdir -p {shlex.quote(str(out))} && mv {words} {shlex.quote(str(out))}"
    manifests = dict.fromkeys(
        asked.manifest_of(record) for record in state.inventory.clips.values()
    )
    # A campaign that ended has one file of log: where that is damaged, no record tells a manifest.
    for manifest in manifests or asked.manifests_with(state.inventory.campaign) or [None]:
        yield f"lynx-engine render {_quoted(manifest)}"


def _line_of(where: str) -> str:
    """Return the `:3` at the end of a place, "" without one."""
    _, colon, number = where.rpartition(":")
    return f":{number}" if colon and number.isdigit() else ""


def _unasked_lines(record: Record) -> Iterator[str]:
    yield (
        f"# {record['clip']}: its row is not in the manifest any more. This writes what makes it "
        "again; then delete the clip."
    )
    path = shlex.quote(f"again-{record['job_id'][:12]}.yaml")
    yield f"lynx-engine show {record['job_id'][:12]} --manifest -o {path}"


def _quoted(manifest: Path | None) -> str:
    return MANIFEST if manifest is None else shlex.quote(str(manifest))


class _Asked:
    """Knows which rows today's manifests ask for; reads each of them once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ids: dict[tuple[str, str], frozenset[str] | None] = {}
        self._found: dict[Path, str] | None = None

    def manifest_of(self, record: Record) -> Path | None:
        """Return the manifest that a record's row stands in, None if nobody finds it any more.

        The record tells its path as it was given, in whatever folder that was; a manifest that
        lies elsewhere counts if it asks for the very row.
        """
        written = Path(str(record["where"]).rpartition(":")[0])
        for path in (written, self._settings.workspace / written):
            if path.is_file() and self._asked_in(path, str(record["campaign"])) is not None:
                return path
        for path in self.manifests_with(str(record["campaign"])):
            if record["job_id"] in (self._asked_in(path, str(record["campaign"])) or ()):
                return path
        return None

    def manifests_with(self, campaign: str) -> list[Path]:
        """Return the manifests of a campaign among those that lie where manifests usually do."""
        if self._found is None:
            workspace = self._settings.workspace
            files = [*(workspace / "manifests").glob("*"), *workspace.glob("*")]
            self._found = {file: _campaign_in(file) for file in sorted(files)}
        return [file for file, named in self._found.items() if named == campaign]

    def is_asked(self, record: Record) -> bool:
        """Return whether a row is asked for; where nobody can tell, it is."""
        manifest = self.manifest_of(record)
        if manifest is None:
            return True
        known = self._asked_in(manifest, str(record["campaign"]))
        return not known or record["job_id"] in known

    def _asked_in(self, path: Path, campaign: str) -> frozenset[str] | None:
        """Return the job ids of a manifest, none if that cannot be told; None for another one's."""
        key = (str(path), campaign)
        if key not in self._ids:
            self._ids[key] = self._read(path, campaign)
        return self._ids[key]

    def _read(self, path: Path, campaign: str) -> frozenset[str] | None:
        try:
            manifest = read_manifest(path, lenient=True)
            if manifest.campaign != campaign:
                return None
            facts = gather_facts(manifest, self._settings)
            plan = plan_renders(manifest, facts, skip_bad_rows=True)
        except LynxError:
            return frozenset()
        if plan.problems:
            return frozenset()
        jobs = (*(p.job for p in plan.to_run), *plan.done, *(h.job for h in plan.held))
        return frozenset(job.job_id for job in jobs)


def _campaign_in(file: Path) -> str:
    """Return the campaign that a manifest names, "" for a file that is none."""
    if file.suffix.lower() not in SUFFIXES or not file.is_file():
        return ""
    try:
        return read_manifest(file, lenient=True).campaign
    except (LynxError, OSError):
        return ""
