"""What a person sees of rows that render, without and with a terminal."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress, TextColumn

from lynx_engine.cli.progress import RowBars, RowLines, watching
from lynx_engine.cli.render import failure_lines, summary_in_words
from lynx_engine.cli.running import Running, describe, describe_rows
from lynx_engine.errors import ErrorCode
from lynx_engine.live import Holder, Live, RowInFlight
from lynx_engine.outcomes import idle_summary
from lynx_engine.results import Failed, Interrupted, Withheld
from lynx_engine.words import duration_in_words
from tests.support.jobs import make_job, plan_of, planned, rendered

JOB = make_job(subject="host")
OTHER, THIRD, FOURTH = (replace(JOB, seed=seed) for seed in (2, 3, 4))


def test_pipe_gets_one_line_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    lines = RowLines(4)
    lines.stage(JOB, "denoise", 1, 4)
    lines.finished(planned(JOB), rendered(JOB))
    lines.finished(planned(OTHER), Failed(ErrorCode.ENCODER, "no \x1b[2J space"))
    lines.stage(THIRD, "denoise", 1, 4)
    lines.finished(planned(THIRD), Interrupted())
    lines.finished(planned(FOURTH), Withheld("opennsfw saw 0.9"))
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == (
        f"[1/4] rendered {JOB.clip_name} (0.0 s)\n"
        f"[2/4] failed {OTHER.clip_name}: encoder: no \\u001b[2J space\n"
        f"[3/4] interrupted {THIRD.clip_name}\n"
        f"[4/4] withheld {FOURTH.clip_name}: opennsfw saw 0.9\n"
    )


def test_row_that_comes_back_from_a_bad_device_is_counted_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = RowLines(2)
    lines.finished(planned(JOB), Failed(ErrorCode.WORKER_DIED, "the process died"))
    lines.finished(planned(JOB), rendered(JOB))
    assert [line[:5] for line in capsys.readouterr().err.splitlines()] == ["[1/2]", "[1/2]"]


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


def test_withheld_clip_is_told_above_the_bars_and_counted_apart_from_failures() -> None:
    observer, progress, screen = bars()
    observer.finished(planned(JOB), Withheld("opennsfw saw 0.9 in frame 3"))
    assert "withheld host-beach" in screen.getvalue().replace("\n", "")
    assert progress.tasks[0].fields["told"] == "1/2 rows, 1 withheld"


def test_withheld_rows_are_told_as_such_and_no_advice_is_to_retry_them() -> None:
    summary = replace(
        idle_summary(plan_of(JOB), Path("clips")),
        withheld=2,
        failures={f"{n}.mp4": "withheld: opennsfw saw 0.9" for n in range(2)},
    )
    told = summary_in_words(summary, Path("m.yaml"), retrying=False)
    assert told.splitlines()[1:] == [
        "  2 rows withheld: opennsfw saw 0.9",
        "    0.mp4, 1.mp4",
    ]
    assert told.startswith("trial: 0 rendered, 2 withheld. Clips: ")
    assert failure_lines({"0.mp4": "withheld: opennsfw saw 0.9"}) == [
        "  withheld 0.mp4: opennsfw saw 0.9"
    ]


def test_quiet_run_has_no_observer() -> None:
    with watching(3, quiet=True) as observer:
        assert observer is None


def test_failures_of_one_reason_are_told_once_with_three_names() -> None:
    failures = {f"clip{n}.mp4": "weights: no file. Get it." for n in range(200)}
    failures["odd.mp4"] = "encoder: ffmpeg exited with 1"
    assert failure_lines(failures) == [
        "  200 rows failed: weights: no file. Get it.\n"
        "    clip0.mp4, clip1.mp4, clip2.mp4 and 197 more",
        "  failed odd.mp4: encoder: ffmpeg exited with 1",
    ]


def test_two_failures_of_one_reason_are_both_named() -> None:
    assert failure_lines({"a.mp4": "x: y", "b.mp4": "x: y"}) == [
        "  2 rows failed: x: y\n    a.mp4, b.mp4"
    ]


def test_hundreds_of_different_failures_do_not_fill_the_screen() -> None:
    lines = failure_lines({f"{n}.mp4": f"internal: trace {n}" for n in range(300)})
    assert len(lines) == 21
    assert lines[-1] == ("  280 rows failed for other reasons; `lynx-engine status` names each.")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.42, "0.4 s"),
        (32.0, "32 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (125, "2 min 5 s"),
        (600, "10 min"),
        (754, "12 min"),
        (3600, "1 h"),
        (11_400, "3 h 10 min"),
        (12_000, "3 h 20 min"),
        (1e6, "12 days"),
    ],
)
def test_durations_are_said_in_two_units_at_most(seconds: float, words: str) -> None:
    assert duration_in_words(seconds) == words


NOW = datetime.now(UTC)
LIVE = Live(
    pid=12,
    host="studio",
    started_at=NOW,
    rows=400,
    rendered=10,
    failed=2,
    in_flight=(
        RowInFlight("a.mp4", "cuda:1", "denoise", 3, 50, NOW - timedelta(seconds=125)),
        RowInFlight("b.mp4", "", "decode", 0, 1, NOW),
    ),
    eta_s=11_400.0,
    stopping=False,
)


def test_running_campaign_is_told_in_a_line_and_a_line_a_row() -> None:
    running = Running("autumn", Holder(12, "studio"), LIVE)
    clock = NOW.astimezone().strftime("%H:%M")
    assert describe(running, NOW) == (
        f"autumn: rendering since {clock}: 12/400 rows, 2 failed, ETA 3 h 10 min"
    )
    assert describe_rows(running, NOW) == [
        "  a.mp4 on cuda:1: denoise 3/50, 2 min 5 s",
        "  b.mp4: decode, 0.0 s",
    ]


def test_campaign_that_starts_or_stops_is_told_so() -> None:
    starting = Running("autumn", Holder(12, "studio"), None)
    assert describe(starting, NOW) == "autumn: starting (process 12 on studio)"
    assert describe_rows(starting, NOW) == []
    live = replace(LIVE, stopping=True, eta_s=None, failed=0, started_at=NOW - timedelta(days=3))
    day = (NOW - timedelta(days=3)).astimezone().strftime("%Y-%m-%d %H:%M")
    assert describe(Running("autumn", Holder(12, "studio"), live), NOW) == (
        f"autumn: stopping, rendering since {day}: 10/400 rows"
    )


def test_end_of_a_run_names_adopted_clips_and_devices_that_were_given_up() -> None:
    idle = idle_summary(plan_of(JOB), Path("clips"))
    summary = replace(
        idle, rendered=1, adopted=("host.mp4",), blocked={"cuda:1": "3 rows in a row killed it"}
    )
    told = summary_in_words(summary, Path("m.yaml"), retrying=False).splitlines()
    assert told[1:] == [
        "  cuda:1 got no further row: 3 rows in a row killed it.",
        "  adopted host.mp4: a run that was killed had made it; its record is in place now.",
    ]
