"""What a log says is published, also a log of which a part is damaged.

Readers that decide want a whole log or none (`store.read_parts`); who looks for damage wants what
is left of one.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lynx_engine.errors import DamagedError, Problem
from lynx_engine.jobs import PUBLISHED, Status
from lynx_engine.provenance.files import read_files
from lynx_engine.provenance.store import decode, records_of

if TYPE_CHECKING:
    import polars as pl

    from lynx_engine.provenance.trace import Record


def readable_records(folder: Path) -> tuple[pl.DataFrame, int, tuple[Problem, ...]]:
    """Return the records that can be read, how many files hold them, and what is wrong.

    Args:
        folder: The log's folder; one that is not there is an empty log.

    Returns:
        Records, oldest first; the number of whole files; a problem for each damaged, missing or
        foreign file, none for a whole log.
    """
    files = read_files(folder)
    problems = files.problems
    contents = files.contents
    try:
        return records_of(folder, replace(files, problems=())), len(contents), problems
    except DamagedError as error:
        problems += error.problems
    contents = {
        name: data
        for name, data in contents.items()
        if not isinstance(decode(folder / name, data), Problem)
    }
    left = replace(files, contents=contents, problems=())
    return records_of(folder, left), len(contents), problems


def published_records(log: pl.DataFrame) -> dict[str, Record]:
    """Return file name -> record of every clip that is published now, by what the log says.

    A later attempt that was withheld has removed the clip of its job.

    Args:
        log: Records of one campaign, oldest first.
    """
    import polars as pl

    of_interest = log.filter((pl.col("clip") != "") | (pl.col("status") == Status.WITHHELD.value))
    found: dict[str, Record] = {}
    for record in of_interest.iter_rows(named=True):
        clip = str(record["clip"])
        if record["status"] in PUBLISHED and clip and Path(clip).name == clip:
            found[clip] = record
        elif record["status"] == Status.WITHHELD:
            job_id = record["job_id"]
            found = {name: kept for name, kept in found.items() if kept["job_id"] != job_id}
    return found
