"""The only module that prints. Results go to stdout, everything else to stderr.

Text from manifests and files is shown with its control characters spelled out, so that no prompt
can move the cursor, colour the screen or turn the line around. Colour appears on terminals only.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

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


def say_long_json(value: Mapping[str, object]) -> None:
    """Print one JSON object to stdout; what an iterator gives is a list, one item a line.

    It is printed as it is made: a hundred thousand rows, each in full, would fill a gigabyte.
    """
    comma = ""
    for name, part in value.items():
        print(f"{comma or '{'}\n  {json.dumps(name)}: ", end="")
        comma = ","
        if not isinstance(part, Iterator):
            told = json.dumps(part, ensure_ascii=True, indent=2, default=str)
            print(told.replace("\n", "\n  "), end="")
            continue
        inner = "["
        for item in cast("Iterator[object]", part):
            print(f"{inner}\n    {json.dumps(item, ensure_ascii=True, default=str)}", end="")
            inner = ","
        print("[]" if inner == "[" else "\n  ]", end="")
    print("\n}")


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

        first, *others = visible(str(error), keep_newlines=True).split("\n", 1)
        _stderr().print(Text(first, style="bold red"), soft_wrap=True)
        # Past rich: a hundred thousand problems would take it seconds.
        print(*others, sep="", end="\n" if others else "", file=sys.stderr)
        return
    listed = error.problems if isinstance(error, ProblemsError) else ()
    problems = [problem.as_json() for problem in listed]
    say_json({"error": str(error), "exit_code": int(error.exit_code), "problems": problems})


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table to stdout; piped into a file it is not cut at 80 columns.

    Line by line: rich's own table takes a minute and 800 MB for a hundred thousand rows.
    """
    from rich.cells import cell_len
    from rich.text import Text

    def cells_of(text: str) -> int:
        return len(text) if text.isascii() else cell_len(text)

    console = _stdout()
    shown = [tuple(visible(str(cell)) for cell in row) for row in rows]
    widths = [max(map(cells_of, column)) for column in zip(columns, *shown, strict=True)]
    # The last column takes what is left and may fold; names and numbers stay in one piece.
    start = 1 + sum(width + _GAP for width in widths[:-1])
    widths[-1] = min(widths[-1], max(console.width - start, _NARROWEST))

    def line(cells: Sequence[str], last: str) -> str:
        apart = (
            cell + " " * (width - cells_of(cell) + _GAP)
            for cell, width in zip(cells, widths[:-1], strict=True)
        )
        return f" {''.join(apart)}{last}".rstrip()

    if title:
        console.print(Text(visible(title), style="italic"))
    console.print()
    console.print(Text(line(columns[:-1], columns[-1]), style="bold"), soft_wrap=True)
    drawn = [f" {'─' * (start + widths[-1] - 1)}"]
    for *cells, last in shown:
        folded = [last]
        if cells_of(last) > widths[-1]:
            folded = [str(part) for part in Text(last).wrap(console, widths[-1], overflow="fold")]
        drawn.append(line(cells, folded[0]))
        drawn += [" " * start + part.rstrip() for part in folded[1:]]
    print("\n".join(drawn), end="\n\n")


_GAP = 2
_NARROWEST = 10


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
