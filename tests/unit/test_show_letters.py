"""`lynx-engine show` tells apart what is not there, what is too short, and what nobody made."""

from __future__ import annotations

from pathlib import Path

import pytest

from lynx_engine.cli.app import app
from lynx_engine.errors import RefusedError
from tests.support.workspaces import run_here


@pytest.mark.parametrize(
    ("name", "letter"),
    [
        ("gone.mp4", "gone.mp4: there is no such file"),
        ("clips/gone.mp4", "clips/gone.mp4: there is no such file"),
        ("./here", "./here: is no file; name a clip"),
        ("e98eb", "e98eb: too short for a job id; 6 characters of it are the least"),
        ("e98ebd", "e98ebd: no record in"),
    ],
)
def test_letter_says_why_there_is_nothing_to_show(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    letter: str,
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "lynx.toml").touch()
    with pytest.raises(RefusedError) as refused:
        run_here(app, tmp_path, monkeypatch, capsys, "show", name)
    assert letter in str(refused.value)
