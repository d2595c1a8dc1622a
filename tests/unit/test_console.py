"""What the console shows of text that a manifest brought along."""

from __future__ import annotations

import pytest

from lynx_engine.cli import console
from lynx_engine.errors import Problem, RefusedError


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b[31mred", "\\u001b[31mred"),
        ("a\rb", "a\\u000db"),
        ("\u202edrow", "\\u202edrow"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("[/red] {x} %s", "[/red] {x} %s"),
        ("海滩 🏖️ שלום", "海滩 🏖️ שלום"),
        ("👩\u200d🚀", "👩\u200d🚀"),
    ],
)
def test_steering_characters_are_spelled_out_and_letters_kept(hostile: str, shown: str) -> None:
    assert console.visible(hostile) == shown


def test_table_shows_markup_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    console.show_table("t", ("prompt",), [("[/red] \x1b[2J",)])
    assert "[/red] \\u001b[2J" in capsys.readouterr().out


def test_error_is_told_on_stderr_with_every_problem(capsys: pytest.CaptureFixture[str]) -> None:
    error = RefusedError([Problem("m.yaml:4", "two [faces]"), Problem("m.yaml:7", "no photo")])
    console.complain(error)
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == (
        "2 problems, nothing was rendered:\n  m.yaml:4: two [faces]\n  m.yaml:7: no photo\n"
    )


def test_error_as_json_stands_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    import json

    console.complain(RefusedError([Problem("m.yaml:4", "two faces")]), as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["exit_code"] == 2
    assert told["problems"] == [{"where": "m.yaml:4", "text": "two faces", "rule": None}]
