"""`lynx-engine report`: the page a person opens in the morning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lynx_engine.cli.options import JsonOption, QuietOption

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from lynx_engine.errors import DamagedError, Problem
    from lynx_engine.settings import Settings

EXAMPLE = "Example: lynx-engine report quickstart --open"


def command(
    campaigns: Annotated[
        list[str] | None,
        typer.Argument(
            help="Campaign names or manifests; every campaign by default.", metavar="CAMPAIGN"
        ),
    ] = None,
    browse: Annotated[
        bool, typer.Option("--open", help="Show the pages in the web browser, too.")
    ] = False,
    photos: Annotated[
        bool | None,
        typer.Option(
            "--photos/--no-photos",
            help="With or without a crop of each subject's photo, whatever `report_photos` says.",
            show_default=False,
        ),
    ] = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Write outputs/CAMPAIGN/report.html anew: every clip, and every row that has none.

    A render writes it at its end, unless `report` in lynx.toml is false. It needs no network.
    """
    from lynx_engine.cli.console import say, say_json
    from lynx_engine.cli.records import campaign_named, campaigns_of, settings_for

    settings = settings_for(campaigns[0] if campaigns else None)
    if photos is not None:
        settings = settings.model_copy(update={"report_photos": photos})
    outcome = "no report was written"
    names = [campaign_named(given, settings, outcome=outcome) for given in campaigns or ()]
    pages, damage = _write(list(dict.fromkeys(names or campaigns_of(settings))), settings)
    if browse:
        _browse(pages.values())
    if json:
        damaged = [] if damage is None else [str(problem) for problem in damage.problems]
        reports = {name: str(page) for name, page in pages.items()}
        say_json({"reports": reports, "damaged": damaged})
        if damage is not None:
            raise typer.Exit(damage.exit_code)
        return
    if not quiet:
        for page in pages.values():
            say(str(page))
        if not pages and damage is None:
            say(f"no campaign in {settings.outputs_dir} yet; `lynx-engine render` makes one")
    if damage is not None:
        raise damage


def _write(names: list[str], settings: Settings) -> tuple[dict[str, Path], DamagedError | None]:
    """Write the pages of the campaigns whose log is whole; tell the damage of the others.

    Raises:
        OSError: If the disk refuses.
    """
    from lynx_engine.errors import DamagedError
    from lynx_engine.provenance.store import DAMAGE_ADVICE, damage_headline
    from lynx_engine.report.html import write_report

    pages: dict[str, Path] = {}
    problems: list[Problem] = []
    for name in names:
        try:
            pages[name] = write_report(name, settings=settings)
        except DamagedError as error:
            problems += error.problems
    if not problems:
        return pages, None
    return pages, DamagedError(damage_headline(problems), problems, DAMAGE_ADVICE)


def _browse(pages: Iterable[Path]) -> None:
    import webbrowser

    from lynx_engine.cli.console import note

    for page in pages:
        if not webbrowser.open(page.absolute().as_uri()):
            note(f"No web browser was found; open {page} by hand.")
            return
