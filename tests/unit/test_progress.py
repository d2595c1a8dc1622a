"""What a person sees of rows that render, without and with a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.progress import Progress, TextColumn

from lynx_engine.cli.progress import RowBars, RowLines, watching
from lynx_engine.errors import ErrorCode
from lynx_engine.jobs import Failed, Interrupted
from tests.support.jobs import make_job, planned, rendered

JOB = make_job(subject="host")


def test_pipe_gets_one_line_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    lines = RowLines(3)
    lines.stage(JOB, "denoise", 1, 4)
    lines.finished(planned(JOB), rendered(JOB))
    lines.finished(planned(JOB), Failed(ErrorCode.ENCODER, "no \x1b[2J space"))
    lines.finished(planned(JOB), Interrupted())
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == (
        f"[1/3] rendered {JOB.clip_name} (0.0 s)\n"
        f"[2/3] failed {JOB.clip_name}: encoder: no \\u001b[2J space\n"
        f"[3/3] interrupted {JOB.clip_name}\n"
    )


def bars() -> tuple[RowBars, Progress, io.StringIO]:
    screen = io.StringIO()
    progress = Progress(
        TextColumn("{task.description} {task.fields[told]}"), console=Console(file=screen)
    )
    return RowBars(progress, 2), progress, screen


def test_terminal_shows_a_bar_for_the_campaign_and_one_for_each_row_in_flight() -> None:
    observer, progress, _ = bars()
    observer.stage(JOB, "denoise", 2, 4)
    told = {task.description: task.fields["told"] for task in progress.tasks}
    assert told == {"campaign": "0/2 rows", "host beach s1 tiny": "denoise 2/4"}
    observer.finished(planned(JOB), rendered(JOB))
    (campaign,) = progress.tasks
    assert (campaign.fields["told"], campaign.percentage) == ("1/2 rows", 50.0)


def test_bars_only_move_forward() -> None:
    observer, progress, _ = bars()
    seen: list[float] = []
    stages = [("load", 0, 1), ("text", 0, 1), ("subject", 0, 1), ("denoise", 0, 4)]
    stages += [("denoise", 2, 4), ("denoise", 4, 4), ("decode", 0, 1), ("encode", 0, 1)]
    for stage in [*stages, ("check", 0, 1)]:
        observer.stage(JOB, *stage)
        seen.append(progress.tasks[1].completed)
    assert seen == sorted(seen)
    assert seen[-1] < 100


def test_failure_is_told_above_the_bars_with_markup_as_text() -> None:
    observer, _, screen = bars()
    observer.finished(planned(JOB), Failed(ErrorCode.ENCODER, "[/red] broke"))
    assert "encoder: [/red] broke" in screen.getvalue().replace("\n", "")


def test_quiet_run_has_no_observer() -> None:
    with watching(3, quiet=True) as observer:
        assert observer is None
