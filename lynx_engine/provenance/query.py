"""Asks the log: a condition, a count by columns, or any question in polars' SQL.

Questions only read, and read nothing but the log: polars' table functions, which open files, and
statements that change a table are refused.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lynx_engine.errors import Problem, RefusedError, nearest
from lynx_engine.jobs import Status

if TYPE_CHECKING:
    import polars as pl

TABLE = "log"
OUTCOME = "nothing to show"

# All that polars' SQL opens files with. Anywhere in the text: a comment, another case or quotes
# between the name and its bracket do not hide it, and hardly a prompt speaks of them.
_READS_FILES = re.compile(r"(?:read|scan)_\w+", re.IGNORECASE)
_QUESTION = re.compile(r"\(*\s*(?:select|with|from|explain)\b", re.IGNORECASE)
_COMMENT = re.compile(r"\s*(?:--[^\n]*(?:\n|$)|/\*.*?\*/)\s*", re.DOTALL)
_UNKNOWN = re.compile(r'unable to find column "(.*?)"; valid columns: \[(.*)\]', re.DOTALL)
_LONGEST = 400


def matching(log: pl.DataFrame, condition: str, *, option: str = "--where") -> pl.DataFrame:
    """Return the records for which a condition holds, as SQL writes it after WHERE.

    Args:
        log: Records.
        condition: Such as `status = 'failed' and total_s > 60`.
        option: What the letter calls it.

    Raises:
        RefusedError: If it is no such condition, or reads files.
    """
    import polars as pl

    _refuse_files(condition, option)
    with _letters(option):
        # Alone it must be one expression: a second statement or a bracket too many ends here.
        pl.sql_expr(condition)
        return _answer(log, f"SELECT * FROM {TABLE} WHERE (\n{condition}\n)")


def asked(log: pl.DataFrame, question: str, *, option: str = "--sql") -> pl.DataFrame:
    """Return the answer to a question in polars' SQL about the table `log`.

    Raises:
        RefusedError: If it cannot be answered, changes something, or reads files.
    """
    _refuse_files(question, option)
    bare = question
    while comment := _COMMENT.match(bare):
        bare = bare[comment.end() :]
    if not _QUESTION.match(bare.lstrip()):
        raise _refused(option, "no question; it begins with SELECT or WITH, its table is log")
    with _letters(option):
        return _answer(log, question)


def grouped(log: pl.DataFrame, columns: Sequence[str], *, option: str = "--group") -> pl.DataFrame:
    """Return counts by columns, sorted by them.

    Args:
        log: Records.
        columns: Names of columns, each once.
        option: What the letter calls it.

    Returns:
        Of each group: `attempts`; how many of them are `rendered`, `low_identity`, `withheld`,
        `failed`; `identity`, the mean likeness where it was scored; `mean_s` and `hours`, mean and
        sum of the time.

    Raises:
        RefusedError: If a column is unknown or named twice.
    """
    import polars as pl

    for name in columns:
        if name not in log.columns:
            raise _refused(option, f"there is no column '{name}'{nearest(name, log.columns)}")
    if len(set(columns)) < len(columns) or not columns:
        raise _refused(option, "name each column once, as in --group variant,status")
    counted = (Status.RENDERED, Status.LOW_IDENTITY, Status.WITHHELD, Status.FAILED)
    return (
        log.group_by(columns)
        .agg(
            pl.len().alias("attempts"),
            *((pl.col("status") == word).sum().alias(word.value) for word in counted),
            pl.col("identity_mean").mean().alias("identity"),
            pl.col("total_s").mean().alias("mean_s"),
            (pl.col("total_s").sum() / 3600).alias("hours"),
        )
        .sort(columns)
    )


def _answer(log: pl.DataFrame, question: str) -> pl.DataFrame:
    import polars as pl

    # Nothing of this program's variables is a table.
    with pl.SQLContext({TABLE: log}, register_globals=False) as context:
        return context.execute(question, eager=True)


def _refuse_files(text: str, option: str) -> None:
    if found := _READS_FILES.search(text):
        told = f"{found[0]}: it asks the log and opens no file; other programs read the log's files"
        raise _refused(option, told)


@contextmanager
def _letters(option: str) -> Generator[None]:
    """Turn what polars says of a question into a letter."""
    import polars as pl

    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise _refused(option, _in_words(error)) from None
    except (TypeError, ValueError, OverflowError, NotImplementedError) as error:
        raise _refused(option, f"polars cannot answer it: {error}"[:_LONGEST]) from None


def _in_words(error: BaseException) -> str:
    # What follows is the plan in polars' own notation.
    told = str(error).partition("\n\nResolved plan")[0].partition("\n\nThis error occurred")[0]
    unknown = _UNKNOWN.search(told)
    if unknown is None:
        return " ".join(told.split())[:_LONGEST]
    known = re.findall(r'"(.*?)"', unknown[2])
    advice = nearest(unknown[1], known) or "; `lynx-engine log --columns` lists them"
    return f"there is no column '{unknown[1]}'{advice} (a text stands in 'single quotes')"


def _refused(option: str, text: str) -> RefusedError:
    return RefusedError([Problem(option, text)], outcome=OUTCOME)
