"""Logs of other versions: the first one's reads, an upgrade is applied, a newer one is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from lynx_engine.cli.app import app
from lynx_engine.digest import digest_bytes
from lynx_engine.errors import DamagedError
from lynx_engine.provenance import upgrade
from lynx_engine.provenance.columns import GROUPS, columns, provenance_page
from lynx_engine.provenance.folding import fold_log
from lynx_engine.provenance.past import read_history
from lynx_engine.provenance.schema import SCHEMA_VERSION, column_defaults, record_columns
from lynx_engine.provenance.store import read_parts, write_part
from tests.support.jobs import make_job, record_of
from tests.support.workspaces import run_here

ROOT = Path(__file__).parents[2]
FIRST = ROOT / "tests/golden/log/first/provenance"


def write_as(folder: Path, frame: pl.DataFrame) -> Path:
    """Store records as a program with other columns would have."""
    folder.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(folder / "new")
    data = (folder / "new").read_bytes()
    (folder / "new").unlink()
    stem = f"part-20261101T120000250000Z-{frame['job_id'][0][:12]}-a1"
    path = folder / f"{stem}-{digest_bytes(data)[:32]}.parquet"
    path.write_bytes(data)
    return path


def record_frame(folder: Path, **changes: Any) -> pl.DataFrame:
    return pl.read_parquet(write_part(folder / "made", replace(record_of(make_job()), **changes)))


def test_log_of_the_first_version_reads_with_every_column_of_this_one() -> None:
    log = read_parts(FIRST)
    assert dict(log.schema) == dict(record_columns())
    assert log["status"].to_list() == ["rendered", "failed"]
    assert log["prompt"][0] == "A walk on the beach. 海滩"
    first = log.row(0, named=True)
    assert (first["subject_s"], first["denoise_s"]) == (0.75, 6.0)  # 0.5 identity, 0.25 reference
    unknown = ("stderr", "photos", "consent_id", "driver", "ffmpeg_version", "identity_scores")
    assert [first[name] for name in unknown] == ["", "[]", "", "", "", "[]"]
    assert first["identity_mean"] is None


def test_log_of_the_first_version_folds_with_a_new_record(tmp_path: Path) -> None:
    shutil.copytree(FIRST, tmp_path / "log")
    write_part(tmp_path / "log", record_of(make_job(seed=9)))
    before = read_parts(tmp_path / "log")
    assert fold_log(tmp_path / "log") == 3
    assert read_parts(tmp_path / "log").equals(before)
    assert len(read_history(tmp_path / "log").by_job) == 3


def test_upgrade_makes_an_older_version_readable_from_file_to_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Version 0, invented here, told the size in two columns and knew no crf."""
    old = record_frame(tmp_path, schema_version=0, size="64x48").drop("stderr", "crf")
    old = old.with_columns(width=pl.lit(64), height=pl.lit(48)).drop("size")
    folder = tmp_path / "outputs/old/provenance"
    write_as(folder, old)
    with pytest.raises(DamagedError, match="version 0, which this program cannot upgrade"):
        read_parts(folder)

    def from_zero(frame: pl.DataFrame) -> pl.DataFrame:
        size = pl.format("{}x{}", "width", "height").alias("size")
        return frame.with_columns(size, crf=pl.lit(23, pl.Int64)).drop("width", "height")

    monkeypatch.setitem(upgrade.UPGRADES, 0, from_zero)
    asked = "--sql=SELECT schema_version, size, crf, stderr FROM log"
    told = json.loads(run_here(app, tmp_path, monkeypatch, capsys, "log", "old", asked, "--json"))
    row = {"schema_version": SCHEMA_VERSION, "size": "64x48", "crf": 23, "stderr": ""}
    assert told == [row]
    write_part(folder, record_of(make_job(seed=2)))
    assert fold_log(folder) == 2
    monkeypatch.delitem(upgrade.UPGRADES, 0)
    assert set(read_parts(folder)["size"]) == {"64x48", "64x64"}


@pytest.mark.parametrize(
    ("change", "letter"),
    [
        (
            lambda f: f.with_columns(schema_version=pl.lit(SCHEMA_VERSION + 1, pl.Int64)),
            rf"schema version {SCHEMA_VERSION + 1} by lynx_engine \S+; .* Upgrade lynx_engine\.",
        ),
        (
            lambda f: f.with_columns(mood=pl.lit("good")),
            r"columns unknown here \(mood\) by lynx_engine \S+; .* Upgrade lynx_engine\.",
        ),
        (lambda f: f.drop("seed"), "without seed"),
        (lambda f: f.with_columns(pl.col("seed").cast(pl.String)), "of another type: seed"),
        (lambda f: f.drop("schema_version"), "it has no schema_version"),
    ],
    ids=["newer version", "newer columns", "column gone", "other type", "no version"],
)  # fmt: skip
def test_records_this_program_cannot_read_are_named_and_never_dropped(
    tmp_path: Path, change: Callable[[pl.DataFrame], pl.DataFrame], letter: str
) -> None:
    part = write_as(tmp_path / "log", change(record_frame(tmp_path)))
    with pytest.raises(DamagedError, match=letter) as caught:
        read_parts(tmp_path / "log")
    assert part.name in str(caught.value)
    with pytest.raises(DamagedError):
        fold_log(tmp_path / "log")
    assert part.is_file()


def test_every_column_has_a_meaning_and_a_type_in_words() -> None:
    assert [column.name for column in columns()] == list(record_columns())
    assert all(len(column.meaning) >= 5 and column.meaning.endswith(".") for column in columns())
    seconds = [column for column in columns() if column.name.endswith("_s")]
    assert {column.unit for column in seconds} == {"s"}
    assert set(GROUPS) <= {column.name for column in columns()}


def test_every_column_that_came_after_the_first_version_has_a_default() -> None:
    first = set(pl.read_parquet_schema(next(FIRST.iterdir())))
    assert set(record_columns()) - first - {"subject_s"} <= set(column_defaults())


def test_page_of_the_columns_is_what_the_code_says() -> None:
    page = (ROOT / "docs/provenance.md").read_text(encoding="utf-8")
    assert page == provenance_page(), "run `make schema`"
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == list(record_columns())
