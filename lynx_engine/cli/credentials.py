"""`lynx-engine credentials`: makes a test chain, tries what the settings name, reads a clip's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from lynx_engine.cli.options import JsonOption

if TYPE_CHECKING:
    from lynx_engine.provenance.credentials import CredentialState
    from lynx_engine.settings import Settings

EXAMPLE = """Examples:

lynx-engine credentials init

lynx-engine credentials check

lynx-engine credentials read outputs/quickstart/clips/*-s1-tiny-*.mp4"""

_DEFAULT_FOLDER = "credentials"

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", epilog=EXAMPLE)


@app.callback()
def group() -> None:
    """Sign clips with C2PA Content Credentials, and read those of any clip."""


@app.command(epilog="Example: lynx-engine credentials init certificates/test")
def init(
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="A new folder; `credentials` in the workspace by default.", metavar="[FOLDER]"
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Make a chain of certificates for tests, and say how to use it. Nobody else trusts it."""
    from datetime import UTC, datetime

    from lynx_engine.cli.console import say, say_json
    from lynx_engine.provenance.own_chain import DAYS, make_own_chain
    from lynx_engine.settings import WORKSPACE_FILE, load_settings

    settings = load_settings()
    place = settings.workspace / _DEFAULT_FOLDER if folder is None else folder.absolute()
    make_own_chain(place, datetime.now(UTC))
    line = _setting(place, settings)
    file = settings.workspace / WORKSPACE_FILE
    if json:
        say_json({"folder": str(place), "days": DAYS, "setting": line, "file": str(file)})
        return
    say(f"{place}: a test chain for {DAYS} days. Clips signed with it are trusted here only.")
    say(f"To sign clips with it, add this line to {file}:")
    say()
    say(f"  {line}")
    say()
    say("key.pem is secret: keep it out of repositories and backups that others read.")


def _setting(place: Path, settings: Settings) -> str:
    """Return the line of lynx.toml that names a folder, relative if it lies in the workspace."""
    from json import dumps

    workspace = settings.workspace.resolve()
    found = place.resolve()
    named = found.relative_to(workspace) if found.is_relative_to(workspace) else found
    # A basic string of TOML is written as one of JSON.
    return f"credentials = {dumps(named.as_posix(), ensure_ascii=False)}"


@app.command(epilog="Example: lynx-engine credentials check --json")
def check(json: JsonOption = False) -> None:
    """Sign a picture in memory with what the settings name, and say who signs until when."""
    from lynx_engine.cli.console import note, say_json, show_fields
    from lynx_engine.errors import Problem, RefusedError
    from lynx_engine.settings import WORKSPACE_FILE, load_settings
    from lynx_engine.signing import open_credentials

    settings = load_settings()
    credentials = open_credentials(settings)
    if credentials is None:
        text = (
            "no setting `credentials`: clips are not signed. `lynx-engine credentials init` makes "
            "a test chain and says which line to add"
        )
        where = str(settings.workspace / WORKSPACE_FILE)
        raise RefusedError([Problem(where, text)], outcome="nothing to check")
    chain = credentials.chain
    found = {
        "folder": str(chain.folder),
        "signer": chain.signer,
        "not_after": chain.not_after.isoformat(),
        "algorithm": chain.algorithm,
        "timestamps": credentials.timestamp_host,
        "probe": "trusted",
    }
    warnings = credentials.warnings()
    if json:
        say_json({**found, "warnings": [str(warning) for warning in warnings]})
        return
    for warning in warnings:
        note(str(warning))
    show_fields({**found, "timestamps": found["timestamps"] or "none"})


@app.command(
    epilog="Example: lynx-engine credentials read outputs/quickstart/clips/*-s1-tiny-*.mp4"
)
def read(
    clip: Annotated[Path, typer.Argument(help="A clip, wherever it lies.", metavar="CLIP")],
    json: JsonOption = False,
) -> None:
    """Check a clip's credential without any network, and print what it says.

    Ends with 4 if it is invalid. `valid` is intact and signed by somebody whom root.pem of the
    settings does not vouch for.
    """
    from lynx_engine.cli.console import say, say_json, show_fields
    from lynx_engine.cli.records import settings_for
    from lynx_engine.errors import ExitCode, Problem, RefusedError
    from lynx_engine.provenance.credentials import CredentialKind, read_credential

    try:
        state = read_credential(clip, settings=settings_for(str(clip)))
    except OSError as error:
        problem = Problem(str(clip), f"cannot be read: {error.strerror}")
        raise RefusedError([problem], outcome="nothing to read") from None
    if json:
        say_json(_as_json(clip, state))
    else:
        show_fields(_in_words(state))
        if weights := _weights_of(state):
            say("\nsha256 of the weights")
            show_fields(weights)
    if state.state is CredentialKind.INVALID:
        raise typer.Exit(ExitCode.DAMAGED)


def _as_json(clip: Path, state: CredentialState) -> dict[str, object]:
    return {
        "clip": str(clip),
        "state": state.state.value,
        "signer": state.signer,
        "not_after": None if state.not_after is None else state.not_after.isoformat(),
        "identifier": state.identifier,
        "problems": list(state.problems),
        "says": dict(state.says),
    }


def _in_words(state: CredentialState) -> dict[str, object]:
    from lynx_engine.provenance.credentials import CredentialKind

    if state.state is CredentialKind.NONE:
        return {"state": "none: the file has no credential"}
    fields: dict[str, object] = {"state": state.state.value}
    fields |= {"problem": "; ".join(state.problems)} if state.problems else {}
    fields |= {"signer": state.signer or "unknown", "identifier": state.identifier or "unknown"}
    return {**fields, **{name: told for name, told in state.says.items() if name != "weights"}}


def _weights_of(state: CredentialState) -> dict[str, object]:
    """Return the digests that a credential tells of weights, by file; many, and long."""
    weights = state.says.get("weights")
    return cast("dict[str, object]", weights) if isinstance(weights, dict) else {}
