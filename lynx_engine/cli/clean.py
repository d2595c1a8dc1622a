"""`lynx-engine clean`: removes what dead runs left; never the log, and no clip unless asked."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lynx_engine.cli.options import AnyCampaignArgument, JsonOption

if TYPE_CHECKING:
    from lynx_engine.settings import Settings

EXAMPLE = "Example: lynx-engine clean quickstart --dry-run"


@dataclass(slots=True)
class Cleaning:
    """What one call of `clean` found and did.

    Attributes:
        settings: Where to look.
        dry_run: Name things only.
        removed: Path -> bytes, of what was removed or would be.
        running: Campaigns left alone because a process renders them.
        unrecorded: Clips that no record names, and that were left.
        unread: Campaigns whose log is damaged, so that no clip can be told from another.
    """

    settings: Settings
    dry_run: bool
    removed: dict[Path, int] = field(default_factory=dict[Path, int])
    running: list[str] = field(default_factory=list[str])
    unrecorded: list[Path] = field(default_factory=list[Path])
    unread: list[str] = field(default_factory=list[str])

    def remove(self, paths: Iterable[Path]) -> None:
        """Remove files and folders that are there, links as links."""
        import shutil

        for path in paths:
            if not (path.exists() or path.is_symlink()):
                continue
            self.removed[path] = self.removed.get(path) or bytes_of(path)
            if self.dry_run:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def command(
    campaign: AnyCampaignArgument = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")
    ] = False,
    unrecorded: Annotated[
        bool, typer.Option("--unrecorded", help="Remove clips that no record names, too.")
    ] = False,
    copies: Annotated[
        bool,
        typer.Option(
            "--copies",
            help="Remove the cache's copies of big weights, too; they are made anew when needed.",
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Remove drafts, tracebacks and Prefect's database of campaigns that do not render now.

    What was computed of faces goes, too, once its days are over.
    """
    from lynx_engine.cli.console import say_json
    from lynx_engine.cli.records import campaign_named, campaigns_of, settings_for
    from lynx_engine.folders import COPIES_FOLDER

    settings = settings_for(campaign)
    every = campaigns_of(settings)
    outcome = "nothing was removed"
    names = [campaign_named(campaign, settings, outcome=outcome)] if campaign else every
    cleaning = Cleaning(settings, dry_run)
    for name in names:
        clean_campaign(cleaning, name, unrecorded=unrecorded)
    _clean_scratch(cleaning, every)
    _clean_faces(cleaning)
    if copies:
        # A run that reads them keeps what it has mapped.
        cleaning.remove(sorted((settings.cache / COPIES_FOLDER).glob("*")))
    if not json:
        _tell(cleaning)
        return
    say_json(
        {
            "dry_run": dry_run,
            "removed": [{"path": str(p), "bytes": size} for p, size in cleaning.removed.items()],
            "bytes": sum(cleaning.removed.values()),
            "running": cleaning.running,
            "unrecorded": [str(path) for path in cleaning.unrecorded],
            "log_damaged": cleaning.unread,
        }
    )


def clean_campaign(cleaning: Cleaning, name: str, *, unrecorded: bool) -> None:
    """Clean one campaign under its lock, or name it as running."""
    from lynx_engine.errors import DamagedError, LockedError
    from lynx_engine.live import is_running
    from lynx_engine.lock import lock_campaign

    folder = cleaning.settings.campaign_dir(name)
    if is_running(folder) is not None:
        cleaning.running.append(name)
        return
    litter = list(litter_of(folder, cleaning.settings.state_dir / "prefect" / name))
    orphans = unrecorded_clips(folder)
    if orphans is None:
        cleaning.unread.append(name)
    if cleaning.dry_run or not (litter or orphans):
        _sort_out(cleaning, litter, orphans or [], unrecorded=unrecorded)
        return
    # Taking the lock sweeps the drafts: their sizes are asked before.
    sizes = {path: bytes_of(path) for path in litter}
    try:
        with lock_campaign(folder):
            cleaning.removed |= sizes
            # Looked at again: taking the lock may have found the record of a clip.
            _sort_out(cleaning, litter, unrecorded_clips(folder) or [], unrecorded=unrecorded)
    except LockedError:
        cleaning.running.append(name)
    except DamagedError:
        cleaning.unread += [] if name in cleaning.unread else [name]


def litter_of(folder: Path, database: Path) -> Generator[Path]:
    """Give what a campaign can do without: none of it is a clip, a record or the plain log.

    Posters whose clip is gone are among it.

    Args:
        folder: The campaign's folder.
        database: Where its Prefect server keeps its files.
    """
    from lynx_engine.lock import DRAFTS_FOLDER, LIVE_FILE
    from lynx_engine.survey import CLIPS_FOLDER, POSTERS_FOLDER, poster_name

    yield from sorted((folder / DRAFTS_FOLDER).glob("*"))
    yield from sorted(folder.glob("traceback-*.txt"))
    yield from sorted(folder.glob(f"{LIVE_FILE}*"))
    posters = sorted((folder / POSTERS_FOLDER).glob("*"))
    kept = {poster_name(clip.name) for clip in (folder / CLIPS_FOLDER).glob("*.mp4")}
    yield from (poster for poster in posters if poster.name not in kept)
    if database.is_dir():
        yield database


def unrecorded_clips(folder: Path) -> list[Path] | None:
    """Return the clips that no record names; None if the log is damaged, and cannot say."""
    from lynx_engine.errors import DamagedError
    from lynx_engine.provenance.past import read_history
    from lynx_engine.provenance.store import FOLDER
    from lynx_engine.survey import CLIPS_FOLDER

    try:
        recorded = read_history(folder / FOLDER).clip_bytes
    except DamagedError:
        return None
    return [
        path for path in sorted((folder / CLIPS_FOLDER).glob("*.mp4")) if path.name not in recorded
    ]


def bytes_of(path: Path) -> int:
    """Return the size of a file, or of all files below a folder."""
    if path.is_dir() and not path.is_symlink():
        return sum(p.lstat().st_size for p in path.rglob("*") if not p.is_dir())
    return path.lstat().st_size


def _sort_out(
    cleaning: Cleaning, litter: list[Path], orphans: list[Path], *, unrecorded: bool
) -> None:
    cleaning.remove(litter)
    if unrecorded:
        from lynx_engine.survey import POSTERS_FOLDER, poster_name

        posters = (p.parents[1] / POSTERS_FOLDER / poster_name(p.name) for p in orphans)
        cleaning.remove([*orphans, *posters])
    else:
        cleaning.unrecorded += orphans


def _clean_scratch(cleaning: Cleaning, every: list[str]) -> None:
    """Remove the scratch folders of device processes, if no campaign of the workspace renders.

    They are listed before that is asked: a run that begins meanwhile makes others.
    """
    from lynx_engine.live import is_running
    from lynx_engine.rerendering import dead_scratch

    cleaning.remove(dead_scratch(cleaning.settings.state_dir))
    scratch = cleaning.settings.state_dir / "dask" / "dask-scratch-space"
    folders = [path for path in sorted(scratch.glob("*")) if path.suffix != ".lock"]
    if not any(is_running(cleaning.settings.campaign_dir(name)) for name in every):
        cleaning.remove(folders)


def _clean_faces(cleaning: Cleaning) -> None:
    """Remove what is kept of faces and is past its time."""
    from lynx_engine.forgetting import open_kept

    vault = open_kept(cleaning.settings)
    cleaning.removed |= {path: bytes_of(path) for path in vault.expired()}
    if not cleaning.dry_run:
        vault.remove_expired()


def _tell(cleaning: Cleaning) -> None:
    from lynx_engine.cli.console import note, say
    from lynx_engine.diskspace import bytes_in_words

    verb = "would remove" if cleaning.dry_run else "removed"
    for path, size in cleaning.removed.items():
        say(f"{verb} {path} ({bytes_in_words(size)})")
    for name in cleaning.running:
        note(f"{name}: renders now; left alone.")
    for name in cleaning.unread:
        note(
            f"{name}: its log is damaged, so no clip of it was judged; "
            "`lynx-engine status` names the files."
        )
    for path in cleaning.unrecorded:
        say(f"no record: {path}")
    if cleaning.unrecorded:
        count = len(cleaning.unrecorded)
        said = "1 clip has" if count == 1 else f"{count} clips have"
        say(f"{said} no record; `--unrecorded` removes {'it' if count == 1 else 'them'}.")
    if cleaning.removed:
        say(f"{bytes_in_words(sum(cleaning.removed.values()))} in all.")
    else:
        say("Nothing to clean.")
