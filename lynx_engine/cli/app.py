"""`lynx-engine`: gathers the commands, and turns every way a command can end into an exit code."""

from __future__ import annotations

import io
import logging
import signal
import sys
from types import FrameType
from typing import Annotated

import typer

from lynx_engine import __version__
from lynx_engine.cli import (
    bench,
    cancel,
    check,
    clean,
    compare,
    credentials,
    doctor,
    forget,
    init,
    log,
    models,
    plan,
    render,
    report,
    retry,
    schedule,
    show,
    status,
    subjects,
    variants,
    verify,
)
from lynx_engine.errors import UNWRITABLE, ExitCode, LynxError, pause_for

app = typer.Typer(
    name="lynx-engine",
    help="Render a manifest of subjects, prompts, seeds and variants into clips with provenance.",
    epilog="First steps: lynx-engine init studio && cd studio && "
    "lynx-engine render manifests/quickstart.yaml",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

for module in (
    init,
    check,
    subjects,
    plan,
    render,
    retry,
    status,
    cancel,
    show,
    log,
    report,
    verify,
    compare,
    clean,
    forget,
    variants,
    doctor,
    bench,
):
    app.command(module.__name__.rpartition(".")[2], epilog=module.EXAMPLE)(module.command)

app.add_typer(schedule.app, name="schedule")
app.add_typer(models.app, name="models")
app.add_typer(credentials.app, name="credentials")


def _show_version(asked: bool) -> None:
    if asked:
        from lynx_engine.cli.console import say

        say(f"lynx-engine {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="The version.")
    ] = False,
) -> None:
    """Render a manifest of subjects, prompts, seeds and variants into clips with provenance."""
    del version  # handled by its callback


def main() -> None:
    """Run one command and exit as RELIABILITY promises: never a traceback for a user's mistake."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal or pipe of another encoding gets escapes where it lacks a letter.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    # What libraries log is for developers; what a user should know is said by the commands.
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        app()  # ends in SystemExit: 2 for a wrong word on the command line, 130 for Ctrl-C
    except LynxError as error:
        from lynx_engine.cli.console import complain

        complain(error, as_json="--json" in sys.argv)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            _report_bug(error)
            sys.exit(ExitCode.BUG)
        from lynx_engine.cli.console import complain

        complain(pause_for(error, "the disk"), as_json="--json" in sys.argv)
        sys.exit(ExitCode.PAUSED)
    except Exception as error:  # noqa: BLE001  # the last line of defence: a bug is told as a bug
        _report_bug(error)
        sys.exit(ExitCode.BUG)


def _leave(number: int, _frame: FrameType | None) -> None:
    """Leave as Ctrl-C does: every block is left in order, servers and processes end."""
    sys.exit(128 + number)


def _report_bug(error: Exception) -> None:
    import tempfile
    import traceback

    from lynx_engine.cli.console import note
    from lynx_engine.tail import without_secrets

    with tempfile.NamedTemporaryFile(
        "w", prefix="lynx-engine-", suffix=".traceback.txt", delete=False, encoding="utf-8"
    ) as file:
        file.write(without_secrets("".join(traceback.format_exception(error))))
    note(
        f"A bug in lynx-engine: {type(error).__name__}: {without_secrets(str(error))}\n"
        f"Nothing that was finished is lost. Please report it with {file.name}."
    )
