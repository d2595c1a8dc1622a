"""The copy of an empty Prefect database that spares campaigns its making."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from flows.database import DATABASE, begin_with_copy, keep_copy


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache with the copy of a database that is open, its last rows not in its file yet."""
    first = tmp_path / "first"
    first.mkdir()
    with closing(sqlite3.connect(first / DATABASE)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE versions (number TEXT)")
        database.execute("INSERT INTO versions VALUES ('latest')")
        database.commit()
        keep_copy(first, tmp_path / "cache")
    return tmp_path / "cache"


def numbers(home: Path) -> list[tuple[str]]:
    with closing(sqlite3.connect(home / DATABASE)) as database:
        return database.execute("SELECT number FROM versions").fetchall()


def test_campaign_begins_with_what_another_left(home: Path, cache: Path) -> None:
    assert not begin_with_copy(home, cache)
    assert numbers(home) == [("latest",)]
    assert [path.name for path in home.iterdir()] == [DATABASE]


def test_first_campaign_of_a_machine_makes_its_own(home: Path, tmp_path: Path) -> None:
    assert begin_with_copy(home, tmp_path / "nothing")
    assert not (home / DATABASE).exists()


def test_database_that_is_there_is_left_alone(home: Path, cache: Path) -> None:
    (home / DATABASE).write_bytes(b"mine")
    assert not begin_with_copy(home, cache)
    assert (home / DATABASE).read_bytes() == b"mine"


@pytest.mark.parametrize("left", [0, 100, 5000])
def test_damaged_copy_is_thrown_away(home: Path, cache: Path, left: int) -> None:
    (copy,) = cache.iterdir()
    copy.write_bytes(copy.read_bytes()[:left] or b"no database at all")
    assert begin_with_copy(home, cache)
    assert [*home.iterdir(), *cache.iterdir()] == []


def test_database_of_the_users_choice_takes_no_copy(
    home: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", "sqlite+aiosqlite:////x.db")
    assert not begin_with_copy(home, cache)
    assert not (home / DATABASE).exists()


def test_cache_that_takes_no_file_is_passed_over(home: Path, cache: Path, tmp_path: Path) -> None:
    begin_with_copy(home, cache)
    (tmp_path / "file").write_text("in the way")
    keep_copy(home, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "in the way"
