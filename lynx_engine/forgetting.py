"""Removes what a workspace keeps of a subject's face: `find_kept` looks, `forget` acts.

What goes is what was computed of a face, contact sheets that show it, reports that show photos and,
when asked, clips. The record of what was rendered stays: it names the subject, and a photo by a
keyed digest only. A name counts in whatever case, as it does in the register of withdrawals.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lynx_engine.errors import DamagedError, LockedError, Problem, RefusedError, RowError, nearest
from lynx_engine.identity.vault import FOLDER, Vault
from lynx_engine.identity.withdrawals import read_withdrawals
from lynx_engine.live import is_running
from lynx_engine.lock import DRAFTS_FOLDER, lock_campaign
from lynx_engine.manifest.names import check_name
from lynx_engine.manifest.values import NO_SUBJECT
from lynx_engine.media.images import inspect_photo
from lynx_engine.provenance.environment import keyed_digest, read_workspace_key
from lynx_engine.provenance.files import sync_folder
from lynx_engine.provenance.store import FOLDER as LOG_FOLDER
from lynx_engine.provenance.store import read_parts
from lynx_engine.report.html import REPORT_FILE, shows_photos
from lynx_engine.survey import CLIPS_FOLDER, POSTERS_FOLDER, poster_name

if TYPE_CHECKING:
    import polars as pl

    from lynx_engine.identity.vault import KeptPhoto
    from lynx_engine.manifest.values import Manifest
    from lynx_engine.settings import Settings

SHEET = "subjects.html"
"""Contact sheet of a campaign; removed last of its files, as it alone says whom they show."""
_SHEET_FILES = (".subjects.*", "subjects.png", SHEET)


@dataclass(frozen=True, slots=True)
class Kept:
    """What a workspace keeps of some subjects.

    Attributes:
        subjects: Their names.
        photos: Photos of whose faces something is kept.
        sheets: Files of contact sheets that show them, and reports that may, in the order they
            have to go.
        clips: Campaign -> its clips that show them with their posters, where they were asked for,
            and drafts of killed runs; none where only mending the log can tell.
        running: Campaigns that render now: they may keep a face anew.
        unread: What is damaged in logs that therefore cannot say whom they name.
        digests: Keyed digests of their photos, as folders, records and the manifest tell them.
    """

    subjects: tuple[str, ...]
    photos: tuple[KeptPhoto, ...] = ()
    sheets: tuple[Path, ...] = ()
    clips: Mapping[str, tuple[Path, ...]] = field(default_factory=dict[str, "tuple[Path, ...]"])
    running: tuple[str, ...] = ()
    unread: tuple[Problem, ...] = ()
    digests: frozenset[str] = frozenset()

    @property
    def sizes(self) -> dict[Path, int]:
        """Path -> bytes, of all that would go."""
        files = (*self.sheets, *(clip for clips in self.clips.values() for clip in clips))
        return {
            **{photo.folder: photo.size_bytes for photo in self.photos},
            **{file: file.lstat().st_size for file in files if file.is_symlink() or file.exists()},
        }


@dataclass(frozen=True, slots=True)
class _Logs:
    """The records of every campaign whose log is whole, and what is wrong with the others."""

    whole: Mapping[str, pl.DataFrame]
    damaged: frozenset[str]
    problems: tuple[Problem, ...]

    def subjects(self) -> set[str]:
        named = {str(name) for log in self.whole.values() for name in log["subject"].unique()}
        return named - {NO_SUBJECT}

    def rows_of(self, campaign: str, subjects: Collection[str]) -> pl.DataFrame | None:
        log = self.whole.get(campaign)
        if log is None:
            return None
        return log.filter(log["subject"].str.to_lowercase().is_in(list(_lower(subjects))))

    def names_of(self, digests: Collection[str]) -> set[str]:
        """Return what subjects with these photos were called."""
        rows = (
            log.filter(log["subject_digest"].is_in(list(digests))) for log in self.whole.values()
        )
        return {str(name) for found in rows for name in found["subject"].unique()}


def find_kept(
    subjects: Sequence[str],
    settings: Settings,
    *,
    manifest: Manifest | None = None,
    with_clips: bool = False,
) -> Kept:
    """Find everything that is kept of the subjects' faces.

    A photo is found by the names it was kept under, by the records of clips, and by the manifest:
    one person under two names is one photo, and is forgotten as one.

    Args:
        subjects: Names.
        settings: Where to look.
        manifest: What may say which photos the names stand for.
        with_clips: Find their clips, too.

    Raises:
        RefusedError: Naming every subject that nothing here knows, or what stands in the way of
            the vault.
    """
    logs = _read_logs(settings)
    kept = open_kept(settings).kept()
    known = {name for photo in kept for name in photo.names} | logs.subjects()
    known |= set() if manifest is None else manifest.subjects.keys()
    _check_known(subjects, known | _withdrawn_names(settings), settings)
    folders = _folder_names(subjects, settings, logs, manifest)
    campaigns = [path.name for path in sorted(settings.outputs_dir.glob("*")) if path.is_dir()]
    running = tuple(n for n in campaigns if is_running(settings.campaign_dir(n)) is not None)
    clips = {name: _clips_of(name, subjects, settings, logs) for name in campaigns}
    unfinished = {name: _unfinished(name, settings) for name in campaigns if name not in running}
    photos = tuple(
        photo
        for photo in kept
        if photo.folder.name in folders or not _lower(subjects).isdisjoint(_lower(photo.names))
    )
    # A sheet shows the photo, whatever its campaign calls the subject.
    called = {*subjects, *(name for photo in photos for name in photo.names)}
    called |= logs.names_of(folders)
    return Kept(
        subjects=tuple(subjects),
        photos=photos,
        sheets=tuple(
            file
            for name in campaigns
            for file in (
                *_report_with(name, called, settings, logs),
                *_sheets_of(name, sorted(called), settings, logs),
            )
        ),
        clips={
            name: (*found, *(unfinished.get(name) or ()))
            for name, found in clips.items()
            if found or unfinished.get(name) is not None
        }
        if with_clips
        else {},
        running=running,
        unread=logs.problems,
        digests=frozenset(folders).union(photo.folder.name for photo in photos),
    )


def forget(kept: Kept, settings: Settings) -> Kept:
    """Remove what was found: sheets, then photos, their keys first, then clips under their lock.

    Sheets go first, as the vault may alone know under which other names they show a photo.

    Cut short at any point and done again from `find_kept`, it goes on where it stopped.

    Returns:
        What is left: clips of campaigns that render now, or whose log cannot be mended.

    Raises:
        OSError: If the disk refuses.
    """
    _remove(kept.sheets)
    open_kept(settings).forget(photo.folder for photo in kept.photos)
    left: dict[str, tuple[Path, ...]] = {}
    running = set(kept.running)
    unread = list(kept.unread)
    for campaign, clips in kept.clips.items():
        try:
            # Taking it mends the log, and removes the drafts of killed runs.
            with lock_campaign(settings.campaign_dir(campaign)):
                logs = _read_logs(settings)
                for _ in range(
                    2
                ):  # a report, which takes no lock, may have made a poster meanwhile
                    _remove(_clips_of(campaign, kept.subjects, settings, logs))
        except LockedError:
            running.add(campaign)
            left[campaign] = clips
        except DamagedError as error:
            unread += [problem for problem in error.problems if problem not in unread]
            left[campaign] = clips
    return Kept(kept.subjects, clips=left, running=tuple(sorted(running)), unread=tuple(unread))


def open_kept(settings: Settings) -> Vault:
    """Return the vault to look around in: names are found without the workspace's key."""
    return Vault(settings.state_dir / FOLDER, workspace_key=b"", days=settings.face_days)


def _withdrawn_names(settings: Settings) -> set[str]:
    try:
        return {entry.subject for entry in read_withdrawals(settings).entries}
    except DamagedError:
        return set()  # a damaged register must not keep a face


def _check_known(subjects: Sequence[str], known: set[str], settings: Settings) -> None:
    names = _lower(known)
    unknown = [
        name
        for name in subjects
        if not (_is_name(name) and (name.lower() in names or _named_in_sheets(name, settings)))
    ]
    if unknown:
        raise RefusedError(
            [
                Problem(
                    name,
                    f"nothing is kept under this name in {settings.workspace}, and no record or "
                    f"manifest here names it{nearest(name, known)}",
                )
                for name in unknown
            ],
            outcome="nothing was forgotten",
        )


def _is_name(name: str) -> bool:
    """Whether a subject can be called so; "none" is what rows without one say."""
    try:
        return check_name(name).lower() != NO_SUBJECT
    except ValueError:
        return False


def _lower(names: Iterable[str]) -> set[str]:
    return {name.lower() for name in names}


def _read_logs(settings: Settings) -> _Logs:
    whole: dict[str, pl.DataFrame] = {}
    damaged: dict[str, tuple[Problem, ...]] = {}
    for folder in sorted(settings.outputs_dir.glob(f"*/{LOG_FOLDER}")):
        try:
            whole[folder.parent.name] = read_parts(folder)
        except DamagedError as error:
            damaged[folder.parent.name] = error.problems
    problems = tuple(problem for found in damaged.values() for problem in found)
    return _Logs(whole, frozenset(damaged), problems)


def _folder_names(
    subjects: Sequence[str], settings: Settings, logs: _Logs, manifest: Manifest | None
) -> set[str]:
    """Return the names of folders that records and the manifest's photos lead to."""
    names: set[str] = set()
    for campaign in logs.whole:
        rows = logs.rows_of(campaign, subjects)
        # "" where the variant ignores the subject.
        names |= set() if rows is None else {name for name in rows["subject_digest"] if name}
    try:
        key = read_workspace_key(settings.state_dir)
    except DamagedError:
        key = None  # names lead there, too; a damaged key must not keep a face
    if key is None or manifest is None:
        return names
    wanted = _lower(subjects)
    for subject in manifest.subjects.values():
        if subject.name.lower() not in wanted:
            continue
        for photo in subject.images:
            try:
                names.add(keyed_digest(inspect_photo(photo).digest, key))
            except RowError:
                continue  # a photo that is gone is found by its name
    return names


def _named_in_sheets(name: str, settings: Settings) -> bool:
    sheets = settings.outputs_dir.glob(f"*/{SHEET}")
    return any(_names(sheet, [name]) for sheet in sheets)


def _sheets_of(
    campaign: str, subjects: Sequence[str], settings: Settings, logs: _Logs
) -> list[Path]:
    """Return the contact sheet's files if it may show one of the subjects.

    A picture without its page shows nobody knows whom; it is made again by one command.
    """
    folder = settings.campaign_dir(campaign)
    sheet = folder / SHEET
    rows = logs.rows_of(campaign, subjects)
    rendered = campaign in logs.damaged or (rows is not None and not rows.is_empty())
    if not rendered and sheet.is_file() and not _names(sheet, subjects):
        return []
    return [file for pattern in _SHEET_FILES for file in sorted(folder.glob(pattern))]


def _report_with(
    campaign: str, subjects: Collection[str], settings: Settings, logs: _Logs
) -> list[Path]:
    """Return the report if it shows photos, of one of the subjects for all that is known."""
    report = settings.campaign_dir(campaign) / REPORT_FILE
    rows = logs.rows_of(campaign, subjects)
    is_named = campaign in logs.damaged or (rows is not None and not rows.is_empty())
    return [report] if is_named and report.is_file() and shows_photos(report) else []


def _names(sheet: Path, subjects: Iterable[str]) -> bool:
    text = sheet.read_text(encoding="utf-8", errors="replace").lower()
    # As the whole text of a tag; as a word, the page holds also its own words and letters.
    return any(f">{name}<" in text for name in _lower(subjects))


def _unfinished(campaign: str, settings: Settings) -> tuple[Path, ...] | None:
    """Return the drafts a killed run left; None if neither these nor its log wait to be tidied."""
    folder = settings.campaign_dir(campaign)
    drafts = tuple(sorted((folder / DRAFTS_FOLDER).glob("*")))
    return drafts if drafts or any((folder / LOG_FOLDER).glob(".*.tmp")) else None


def _clips_of(
    campaign: str, subjects: Sequence[str], settings: Settings, logs: _Logs
) -> tuple[Path, ...]:
    rows = logs.rows_of(campaign, subjects)
    if rows is None:
        return ()
    folder = settings.campaign_dir(campaign)
    names = sorted({str(name) for name in rows["clip"] if name})
    posters = folder / POSTERS_FOLDER
    files = (
        file
        for name in names
        for file in (
            folder / CLIPS_FOLDER / name,
            posters / poster_name(name),
            # Half posters of a report that was killed; names hold no sign that glob knows.
            *sorted(posters.glob(f".{poster_name(name)}.*")),
        )
    )
    return tuple(file for file in files if file.is_file())


def _remove(files: Iterable[Path]) -> None:
    """Remove files one by one, durably: what a sheet shows is known by the last of its files."""
    for file in files:
        file.unlink(missing_ok=True)
        sync_folder(file.parent)
