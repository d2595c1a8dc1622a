"""The only module that prints. Results go to stdout, everything else to stderr.

Text from manifests and files is shown with its control characters spelled out, so that no prompt
can move the cursor, colour the screen or turn the line around. Colour appears on terminals only.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lynx_engine.errors import LynxError, ProblemsError
from lynx_engine.report.texts import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


def say(text: str = "") -> None:
    """Print a result line to stdout, at once: a pipe may be watched."""
    print(visible(text, keep_newlines=True), flush=True)


def say_exactly(text: str) -> None:
    """Print a file's text to stdout as it is: the caller made sure that it steers no terminal."""
    print(text, end="", flush=True)


def say_json(value: object) -> None:
    """Print one JSON document to stdout."""
    print(json.dumps(value, ensure_ascii=True, indent=2, default=str))


def say_data(text: str) -> None:
    """Print a file's content to stdout: exact into a pipe, and harmless on a terminal."""
    if sys.stdout.isatty():
        text = visible(text, keep_newlines=True)
    sys.stdout.write(text)
    sys.stdout.flush()


def note(text: str) -> None:
    """Print a remark to stderr."""
    print(visible(text, keep_newlines=True), file=sys.stderr)


def complain(error: LynxError, *, as_json: bool = False) -> None:
    """Tell a foreseen error: as a letter, or as JSON on stdout."""
    if not as_json:
        from rich.text import Text

        letter = Text(visible(str(error), keep_newlines=True))
        first = letter.plain.find("\n")
        letter.stylize("bold red", 0, len(letter) if first < 0 else first)
        _stderr().print(letter, soft_wrap=True)
        return
    listed = error.problems if isinstance(error, ProblemsError) else ()
    problems = [problem.as_json() for problem in listed]
    say_json({"error": str(error), "exit_code": int(error.exit_code), "problems": problems})


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table to stdout; piped into a file it is not cut at 80 columns."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    # The last column takes what is left and may fold; names and numbers stay in one piece.
    for column in columns[:-1]:
        table.add_column(column, no_wrap=True)
    table.add_column(columns[-1], overflow="fold")
    for row in rows:
        table.add_row(*(Text(visible(str(cell))) for cell in row))
    console = _stdout()
    with console.capture() as drawn:
        console.print(table)
    print("\n".join(line.rstrip() for line in drawn.get().strip("\n").splitlines()))


def show_fields(fields: Mapping[str, object]) -> None:
    """Print names and values, one a line."""
    shown = {visible(name): visible(str(value)) for name, value in fields.items()}
    width = max(map(len, shown))
    for name, value in shown.items():
        say(f"{name:<{width}}  {value}")


@contextmanager
def progress_bars() -> Generator[Progress]:
    """Give live progress bars on stderr, for a terminal."""
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[told]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=_stderr(),
        transient=True,
    ) as progress:
        yield progress


@contextmanager
def screen() -> Generator[Callable[[str], None]]:
    """Give a function that shows a text on stdout in place of the one before, for a terminal."""
    from rich.live import Live
    from rich.text import Text

    with Live(console=_stdout(), auto_refresh=False, transient=True) as live:
        yield lambda text: live.update(Text(visible(text, keep_newlines=True)), refresh=True)


def stdout_is_terminal() -> bool:
    """Whether a person watches stdout."""
    return sys.stdout.isatty()


def stderr_is_terminal() -> bool:
    """Whether a person watches stderr."""
    return sys.stderr.isatty()


def _stdout() -> Console:
    from rich.console import Console

    # A pipe has no width: 80 columns would fold what grep and less should see whole.
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else 1000, highlight=False)


def _stderr() -> Console:
    from rich.console import Console

    return Console(file=sys.stderr, highlight=False)
