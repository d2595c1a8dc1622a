"""What a record keeps of a failing program's words: the end, and no secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from lynx_engine.tail import last_lines, last_lines_of


def test_only_the_last_twenty_lines_stay() -> None:
    text = "\n".join(f"line {n}" for n in range(100)) + "\n\n"
    assert last_lines(text).splitlines() == [f"line {n}" for n in range(80, 100)]


def test_one_endless_line_is_cut_to_its_end() -> None:
    assert last_lines("x" * 1_000_000 + "end") == "x" * 1997 + "end"


def test_name_of_a_crash_stays_before_the_end_of_its_long_dump() -> None:
    dump = "\n".join(f"  File x, line {n} in f" + "y" * 120 for n in range(60))
    told = last_lines(f"hello\nFatal Python error: Segmentation fault\n\n{dump}")
    assert told.startswith("Fatal Python error: Segmentation fault\n")
    assert told.endswith(dump[-1000:])
    assert len(told) == 2000
    assert len(told.splitlines()) <= 20


def test_secrets_of_the_environment_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdef123456")
    monkeypatch.setenv("MY_PASSWORD", "hf_abc")  # a part of the other one
    monkeypatch.setenv("HARMLESS", "plain words")
    told = last_lines("sent hf_abcdef123456 with plain words from /home/me/clip.mp4")
    assert told == "sent *** with plain words from /home/me/clip.mp4"


def test_secret_that_the_cut_goes_through_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SECRET", "s3cr3t-s3cr3t")
    assert "s3cr3t" not in last_lines("a" * 100 + "s3cr3t-s3cr3t" + "b" * 1995)


def test_userinfo_of_an_address_is_left_out() -> None:
    told = last_lines("GET https://me:p@ss@host/x and postgresql://u@db and mail a@b.c")
    assert told == "GET https://***@host/x and postgresql://***@db and mail a@b.c"


def test_end_of_a_long_file_is_read_without_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "words.log"
    with path.open("wb") as file:
        file.truncate(8 << 30)  # sparse: reading all of it would end the test process
        file.seek(8 << 30)
        file.write(b"\nthe last \xff line\n")
    assert last_lines_of(path).splitlines()[-1] == "the last \ufffd line"
    assert last_lines_of(tmp_path / "absent") == ""
