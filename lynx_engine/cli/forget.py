"""`lynx-engine forget`: removes what is kept of a subject's face, and what shows it when asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lynx_engine.cli.options import JsonOption

if TYPE_CHECKING:
    from lynx_engine.consent import Withdrawal
    from lynx_engine.forgetting import Kept
    from lynx_engine.manifest.values import Manifest
    from lynx_engine.settings import Settings

EXAMPLE = "Example: lynx-engine forget host --clips --dry-run"


def command(
    subjects: Annotated[list[str], typer.Argument(help="Names of subjects.", metavar="SUBJECT")],
    manifest: Annotated[
        Path | None,
        typer.Option(
            metavar="MANIFEST",
            help="What names them: finds also what was kept of their photos under other names.",
        ),
    ] = None,
    clips: Annotated[
        bool, typer.Option("--clips", help="Remove their clips, too; the records stay.")
    ] = False,
    withdraw: Annotated[
        bool,
        typer.Option(
            "--withdraw",
            help="Note that they took their consent back, too: from now on no row of theirs "
            "begins, in no campaign of this workspace.",
        ),
    ] = False,
    restore: Annotated[
        bool,
        typer.Option(
            "--restore", help="Take such a withdrawal back, after a new consent; forget nothing."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Remove everything kept of a subject's face: embeddings, crops, contact sheets.

    Photos and manifests are yours, and stay. Killed at any point, the same command goes on.
    """
    from lynx_engine.cli.console import say_json
    from lynx_engine.errors import ExitCode, Problem, RefusedError
    from lynx_engine.forgetting import find_kept, forget
    from lynx_engine.manifest.read import read_manifest
    from lynx_engine.settings import load_settings

    settings = load_settings(manifest)
    if restore:
        if withdraw or clips or dry_run:
            text = "stands alone; leave out --withdraw, --clips and --dry-run"
            raise RefusedError([Problem("--restore", text)], outcome="nothing was done")
        _restore(subjects, settings, as_json=json)
        return
    read = None if manifest is None else read_manifest(manifest, lenient=True)
    kept = find_kept(subjects, settings, manifest=read, with_clips=clips)
    sizes = kept.sizes
    noted: list[Withdrawal] = []
    if withdraw and not dry_run:
        # Before anything goes: a campaign that runs must not keep it anew.
        noted = _withdraw(subjects, settings, read)
    left = kept if dry_run else forget(kept, settings)
    if not dry_run:
        sizes = {path: size for path, size in sizes.items() if path not in left.sizes}
    code = (
        ExitCode.DAMAGED
        if left.unread
        else ExitCode.LOCKED
        if left.running and not dry_run
        else ExitCode.OK
    )
    if json:
        say_json(
            {
                "dry_run": dry_run,
                "subjects": list(kept.subjects),
                "withdrawn": list(kept.subjects) if withdraw and not dry_run else [],
                "removed": [{"path": str(path), "bytes": size} for path, size in sizes.items()],
                "running": list(left.running),
                "log_damaged": [str(problem) for problem in left.unread],
                "exit_code": int(code),
            }
        )
    else:
        _tell(kept, left, sizes, dry_run=dry_run)
        if withdraw:
            _tell_withdrawn(kept, noted)
    if code:
        raise typer.Exit(code)


def _withdraw(
    subjects: list[str], settings: Settings, manifest: Manifest | None
) -> list[Withdrawal]:
    from lynx_engine.errors import pausing
    from lynx_engine.forgetting import find_kept
    from lynx_engine.identity.withdrawals import withdraw
    from lynx_engine.provenance.environment import make_workspace_key

    with pausing(settings.state_dir):
        make_workspace_key(settings.state_dir)  # without it, the manifest's photos have no digest
    return [
        withdraw(settings, name, keyed=find_kept([name], settings, manifest=manifest).digests)
        for name in subjects
    ]


def _restore(subjects: list[str], settings: Settings, *, as_json: bool) -> None:
    from lynx_engine.cli.console import say, say_json
    from lynx_engine.errors import Problem, RefusedError, nearest
    from lynx_engine.identity.withdrawals import read_withdrawals, restore

    known = [entry.subject for entry in read_withdrawals(settings).entries]
    lower = [name.casefold() for name in known]
    problems = [
        Problem(name, f"has withdrawn nothing in {settings.workspace}{nearest(name, known)}")
        for name in subjects
        if name.casefold() not in lower
    ]
    if problems:
        raise RefusedError(problems, outcome="nothing was changed")
    for name in subjects:
        restore(settings, name)
    if as_json:
        say_json({"restored": subjects})
    else:
        say(f"{', '.join(subjects)}: the withdrawal is taken back. Write the new consent.")


def _tell_withdrawn(kept: Kept, noted: list[Withdrawal]) -> None:
    from lynx_engine.cli.console import say

    who = ", ".join(kept.subjects)
    if not noted:
        say(f"{who}: consent would be noted as withdrawn.")
    else:
        photos = (
            ""
            if all(entry.photos for entry in noted)
            else ", by name only: --manifest adds the photos"
        )
        say(
            f"{who}: consent is noted as withdrawn{photos}. Rows in flight end; no other row of "
            "theirs begins here. Other workspaces do not know of it."
        )


def _tell(kept: Kept, left: Kept, sizes: dict[Path, int], *, dry_run: bool) -> None:
    from lynx_engine.cli.console import note, say
    from lynx_engine.folders import bytes_in_words

    verb = "would remove" if dry_run else "removed"
    called = {photo.folder: ", ".join(photo.names) for photo in kept.photos}
    for path, size in sizes.items():
        of = f", the face of {called[path]}" if called.get(path) else ""
        say(f"{verb} {path} ({bytes_in_words(size)}{of})")
    who = ", ".join(kept.subjects)
    if not sizes:
        say(f"{who}: nothing is kept.")
    elif kept.clips and not dry_run:
        say("The records of the clips stay; `render` makes the clips again if they are asked for.")
    for name in left.running:
        note(
            f"{name}: renders now; {'its clips were left, and ' if left.clips.get(name) else ''}it "
            f"may keep a face again. Once it ended (`lynx-engine cancel {name}`), run this again."
        )
    for problem in left.unread:
        note(f"{problem}")
    if left.unread:
        note(f"A damaged log does not say whom it names: clips of {who} may be left.")
