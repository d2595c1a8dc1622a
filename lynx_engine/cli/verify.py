"""`lynx-engine verify`: is everything in outputs still what was recorded?"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from lynx_engine.cli.options import DevicesOption, JsonOption, QuietOption, WorkspaceOption

if TYPE_CHECKING:
    from lynx_engine.rerendering import Comparison
    from lynx_engine.settings import Settings
    from lynx_engine.verification import CampaignState, Inventory, Part

EXAMPLE = "Example: lynx-engine verify quickstart --deep --rerender 2"

_TELL_EVERY_S = 10.0


def command(
    campaigns: Annotated[
        list[str] | None,
        typer.Argument(help="Campaign names or manifests; every campaign by default."),
    ] = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Decode every clip, and compare its frames.")
    ] = False,
    subset: Annotated[
        str,
        typer.Option(
            metavar="K/N", help="The Kth of N parts of the clips; N runs look at each clip once."
        ),
    ] = "1/1",
    rerender: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="Render N random clips again; compare frames."),
    ] = 0,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Which N these are; another draw each time without.")
    ] = None,
    devices: DevicesOption = "auto",
    workspace: WorkspaceOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Check every log file, clip, tag and credential against the records."""
    from lynx_engine.cli.console import note, say_json
    from lynx_engine.cli.records import settings_for, settings_of
    from lynx_engine.errors import ExitCode
    from lynx_engine.mending import mending_lines, without_deleted
    from lynx_engine.verification import take_inventory, verify

    part = _read_part(subset)
    given = campaigns or []
    settings = settings_of(workspace) if workspace else settings_for(given[0] if given else None)
    names = _names(given, settings)
    inventories = [take_inventory(name, settings, part) for name in names]
    with _watching(inventories, quiet=quiet or json) as on_clip:
        states = verify(inventories, settings, deep=deep, on_clip=on_clip)
    states = tuple(without_deleted(state, settings) for state in states)
    compared: list[Comparison] = []
    if rerender:
        states, compared = _rerendered(
            states, settings, rerender, seed, devices, tell=(lambda _: None) if json else note
        )
    is_damaged = any(state.damage for state in states)
    lines = mending_lines(states, settings) if is_damaged else []
    if json:
        say_json(_as_json(states, compared, lines))
    else:
        _tell(states, compared, lines, quiet=quiet)
    unrendered = any(found.outcome == "not rendered" for found in compared)
    code = ExitCode.DAMAGED if is_damaged else ExitCode.ROWS_FAILED if unrendered else ExitCode.OK
    if code:
        raise typer.Exit(code)


def _read_part(text: str) -> Part:
    from lynx_engine.errors import Problem, RefusedError
    from lynx_engine.verification import Part

    try:
        return Part.parse(text)
    except ValueError as error:
        raise RefusedError([Problem("--subset", str(error))], outcome="nothing was read") from None


def _names(given: Sequence[str], settings: Settings) -> list[str]:
    from lynx_engine.cli.records import campaign_named, campaigns_of
    from lynx_engine.errors import Problem, RefusedError

    if given:
        named = [campaign_named(name, settings, outcome="nothing was read") for name in given]
        return list(dict.fromkeys(named))
    known = campaigns_of(settings)
    if not known:
        text = "holds no campaign; name the workspace with --workspace DIR"
        raise RefusedError([Problem(str(settings.outputs_dir), text)], outcome="nothing was read")
    return known


def _rerendered(
    states: tuple[CampaignState, ...],
    settings: Settings,
    count: int,
    seed: int | None,
    devices: str,
    *,
    tell: Callable[[str], None],
) -> tuple[tuple[CampaignState, ...], list[Comparison]]:
    """Render some clips again; return the states with what that showed."""
    import secrets
    from dataclasses import replace

    from flows.run import render
    from lynx_engine.rerendering import draw, pixel_damage, render_again

    seed = secrets.randbits(31) if seed is None else seed
    drawn = draw(states, count, seed)
    tell(f"Rendering {len(drawn)} again, as --seed {seed} draws them:")
    for record in drawn:
        tell(f"  {record['campaign']}/{record['clip']}")
    compared = render_again(drawn, settings, render=render, devices=devices)
    found = list(pixel_damage(compared, settings))
    return tuple(
        replace(
            state,
            damage=(
                *state.damage,
                *(damage for damage in found if damage.campaign == state.inventory.campaign),
            ),
        )
        for state in states
    ), compared


@contextmanager
def _watching(inventories: Sequence[Inventory], *, quiet: bool) -> Generator[Callable[[], None]]:
    """Give what is to be called after each clip: it shows how far it is, and how long it takes."""
    from lynx_engine.cli.console import note, progress_bars, stderr_is_terminal
    from lynx_engine.words import duration_in_words

    total = sum(len(inventory.clips) for inventory in inventories)
    if quiet:
        yield lambda: None
    elif stderr_is_terminal():
        with progress_bars() as progress:
            bar = progress.add_task("verifying", total=total, told=f"{total} clips")
            yield lambda: progress.advance(bar)
    else:
        started = told_at = time.monotonic()
        done = 0

        def advance() -> None:
            nonlocal done, told_at
            done += 1
            now = time.monotonic()
            if now - told_at >= _TELL_EVERY_S:
                told_at = now
                left = duration_in_words((now - started) / done * (total - done))
                note(f"{done} of {total} clips, about {left} left")

        yield advance


def _tell(
    states: Sequence[CampaignState],
    compared: Sequence[Comparison],
    lines: Sequence[str],
    *,
    quiet: bool,
) -> None:
    from lynx_engine.cli.console import complain, note, say
    from lynx_engine.errors import DamagedError

    for state in states:
        inventory = state.inventory
        if not quiet and not state.damage:
            clips = "1 clip" if len(inventory.clips) == 1 else f"{len(inventory.clips)} clips"
            files = "1 file" if inventory.log_files == 1 else f"{inventory.log_files} files"
            say(f"{inventory.campaign}: {clips} and {files} of the log are as recorded.")
        for stray in inventory.strays:
            note(f"{stray}: no record names it.")
        for remark in state.remarks:
            note(remark)
    for found in compared:
        if found.outcome != "differs" and not (quiet and found.outcome == "same"):
            note(f"{found.record['clip']}: {found.text}")
    damage = [damage for state in states for damage in state.damage]
    if damage:
        places = "1 place" if len(damage) == 1 else f"{len(damage)} places"
        advice = "\n".join(["To mend it:", *(f"  {line}" for line in lines)]) if lines else ""
        complain(DamagedError(f"Damage in {places}", (d.problem for d in damage), advice))


def _as_json(
    states: Sequence[CampaignState], compared: Sequence[Comparison], lines: Sequence[str]
) -> dict[str, object]:
    return {
        "campaigns": [
            {
                "campaign": state.inventory.campaign,
                "clips": len(state.inventory.clips),
                "records": state.inventory.records,
                "log_files": state.inventory.log_files,
                "strays": [str(stray) for stray in state.inventory.strays],
                "remarks": list(state.remarks),
                "damage": [
                    {
                        "fault": damage.fault.value,
                        "path": damage.path,
                        "text": damage.text,
                        "job_id": "" if damage.record is None else damage.record["job_id"],
                    }
                    for damage in state.damage
                ],
            }
            for state in states
        ],
        "rendered_again": [
            {
                "clip": found.record["clip"],
                "outcome": found.outcome.value,
                "psnr_db": found.psnr_db,
                "text": found.text,
            }
            for found in compared
        ],
        "mend": list(lines),
    }
