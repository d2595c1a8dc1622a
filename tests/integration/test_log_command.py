"""`lynx-engine log` asks, counts and takes: in SQL, safe CSV, exact parquet; DuckDB agrees."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import duckdb
import polars as pl
import pytest

from lynx_engine.campaign import open_campaign
from lynx_engine.cli import console
from lynx_engine.cli.app import app
from lynx_engine.digest import digest_bytes
from lynx_engine.errors import ErrorCode, RefusedError
from lynx_engine.jobs import Lora
from lynx_engine.lock import lock_campaign
from lynx_engine.pool import InProcessPool
from lynx_engine.preflight import Preflight
from lynx_engine.provenance.columns import columns
from lynx_engine.provenance.export import FORMULA_STARTS, as_csv
from lynx_engine.provenance.query import asked, grouped, matching
from lynx_engine.provenance.schema import record_columns
from lynx_engine.provenance.store import encode, read_log, stamp_of, write_part
from lynx_engine.settings import Settings
from tests.support.jobs import make_job, make_sleeper_job, plan_of, record_of
from tests.support.pools import Watcher
from tests.support.workspaces import run_here

Command = Callable[..., str]

HOSTILE = (
    "</script><script>alert(1)</script>", "=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)",
    "\t=1", "\r=1", "\n=1", "＝1", "a,b;c\"d'e", "\x1b[2J\x1b[31mred", "\u202edrow",
    "zero\u200bwidth", "nul\x00byte", "[/red]", "line\r\nbreak", "海滩 🏖️ שלום", "'quoted", "",
)  # fmt: skip
LOG = pl.DataFrame(
    [
        asdict(
            record_of(
                make_job(seed=seed),
                day=seed,
                status=status,
                variant=variant,
                total_s=10.0 * seed,
                identity_mean=score,
            )
        )
        for seed, status, variant, score in (
            (1, "rendered", "tiny", 0.8),
            (2, "rendered", "tiny", 0.6),
            (3, "failed", "tiny", None),
            (4, "withheld", "tiny_lite", None),
        )
    ],
    schema=dict(record_columns()),
)


@pytest.fixture
def log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """The command in a workspace of two campaigns: two rows of `night`, one of `day`."""
    rows = (("night", 1, "rendered"), ("night", 2, "failed"), ("day", 3, "rendered"))
    for campaign, seed, status in rows:
        job = make_job(seed=seed, campaign=campaign)
        write_part(
            tmp_path / "outputs" / campaign / "provenance",
            record_of(job, day=seed, status=status, total_s=30.0 * seed),
        )
    return lambda *words: run_here(app, tmp_path, monkeypatch, capsys, "log", *words)


def test_condition_and_question_and_groups_say_the_same(log: Command) -> None:
    where = json.loads(log("--where", "status = 'failed' and total_s > 50", "--json"))
    assert [row["seed"] for row in where] == [2]
    question = "SELECT campaign, count(*) AS n FROM log GROUP BY campaign ORDER BY campaign"
    assert json.loads(log("--sql", question, "--json")) == [
        {"campaign": "day", "n": 1},
        {"campaign": "night", "n": 2},
    ]
    groups = json.loads(log("night", "--group", "status", "--json"))
    assert [(g["status"], g["attempts"], g["failed"]) for g in groups] == [
        ("failed", 1, 1),
        ("rendered", 1, 0),
    ]
    latest = json.loads(log("--limit", "1", "--json"))
    assert [row["campaign"] for row in latest] == ["day"]
    assert "3 attempts." in log()
    assert "2026-11-02" in log("--sql", "SELECT max(finished_at) AS t FROM log WHERE seed < 3")


def test_group_counts_each_outcome_and_means_what_was_scored() -> None:
    tiny, lite = grouped(LOG, ["variant"]).to_dicts()
    assert tiny == {
        "variant": "tiny", "attempts": 3, "rendered": 2, "low_identity": 0, "withheld": 0,
        "failed": 1, "identity": pytest.approx(0.7), "mean_s": 20.0, "hours": pytest.approx(1 / 60),
    }  # fmt: skip
    assert (lite["withheld"], lite["identity"]) == (1, None)


@pytest.mark.parametrize(
    "when", ["finished_at > '2026-11-03'", "finished_at > '2026-11-03T00:00:00Z'"]
)
def test_condition_compares_times_as_they_are_written(when: str) -> None:
    assert matching(LOG, when)["seed"].to_list() == [3, 4]


@pytest.mark.parametrize(
    ("condition", "letter"),
    [
        ("statos = 'failed'", "no column 'statos', did you mean 'status'"),
        ('status = "failed"', "a text stands in 'single quotes'"),
        ("total_s", "Boolean"),
        ("status = 'failed' or", "unable to parse"),
        ("1 = 1) UNION SELECT (1", "invalid expression"),
        ("true; DROP TABLE log", "invalid expression"),
        ("total_s > 'x'", "cannot compare"),
        ("", "unable to parse"),
        ("seed = (SELECT 1 FROM read_csv('/etc/passwd'))", "opens no file"),
    ],
)
def test_condition_that_is_none_is_refused_by_a_letter(condition: str, letter: str) -> None:
    with pytest.raises(RefusedError, match=r"^1 problem, nothing to show:\n  --where: ") as caught:
        matching(LOG, condition)
    assert letter in str(caught.value)
    assert "Resolved plan" not in str(caught.value)


@pytest.mark.parametrize(
    ("question", "letter"),
    [
        ("SELECT sed FROM log", "no column 'sed', did you mean 'seed'"),
        ("SELECT * FROM logs", "'logs' was not found"),
        ("SELECT", "expression"),
        ("SELECT 1; SELECT 2", "one (and only one) statement"),
        ("DELETE FROM log", "no question"),
        ("/* SELECT */ DROP TABLE log", "no question"),
        ("CREATE TABLE x AS SELECT * FROM log", "no question"),
        ("SELECT sum(status) FROM log", "sum"),
        ("", "no question"),
        *((text, "opens no file") for text in (
            "SELECT * FROM read_csv('/etc/passwd')",
            'SELECT * FROM "READ_PARQUET"(\'x\')',
            "SELECT * FROM Read_Json/* */\n('x')",
            "WITH x AS (SELECT * FROM `read_ipc`('x')) SELECT * FROM x",
            "-- hello\nSELECT * FROM read_ndjson('x')",
        )),
    ],
)  # fmt: skip
def test_question_that_cannot_be_answered_or_opens_a_file_is_refused(
    question: str, letter: str
) -> None:
    with pytest.raises(RefusedError) as caught:
        asked(LOG, question)
    assert letter in str(caught.value)


def test_numbers_are_shown_with_five_digits_and_no_exponent(log: Command) -> None:
    columns = "total_s / 7000000 AS a, total_s * 1234567 AS b, total_s / 7 AS c, total_s AS d"
    told = log("--sql", f"SELECT {columns} FROM log WHERE seed = 1")
    assert ["0.0000042857", "37037000", "4.2857", "30"] in [s.split() for s in told.splitlines()]


@pytest.mark.parametrize(
    ("words", "letter"),
    [
        (("--sql", "SELECT 1", "--where", "true"), "--sql --where: write the filter into"),
        (("--sql", "SELECT 1", "--group", "status"), "are different answers"),
        (("--json", "--csv", "-"), "are different outputs"),
        (("--columns", "--limit", "3"), "--columns --limit: it lists the columns"),
        (("--status", "faild"), "did you mean 'failed'"),
        (("--group", "statos"), "did you mean 'status'"),
        (("--group", "status,status"), "each column once"),
        (("--csv", "absent/x.csv"), "its folder is not there"),
        (("--csv", "outputs"), "something that is no file stands there"),
        (("--parquet", "outputs/day/provenance/x.parquet"), "that folder is a log"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    log: Command, words: tuple[str, ...], letter: str
) -> None:
    with pytest.raises(RefusedError) as caught:
        log(*words)
    assert letter in str(caught.value)
    assert log("--json")


def test_csv_begins_no_cell_like_a_formula_and_keeps_numbers_and_the_rest() -> None:
    frame = pl.DataFrame(
        {"=name": HOSTILE, "n": [-1.5] * len(HOSTILE), "l": [["=1"]] * len(HOSTILE)}
    )
    text = as_csv(frame).decode()
    header, *rows = list(csv.reader(io.StringIO(text, newline="")))
    assert header == ["'=name", "n", "l"]
    for (cell, number, listed), exact in zip(rows, HOSTILE, strict=True):
        assert not cell.startswith(FORMULA_STARTS)
        assert cell == (f"'{exact}" if exact.startswith(FORMULA_STARTS) else exact)
        assert (number, listed) == ("-1.5", '["=1"]')
    assert ",-1.5," in text  # a number, not a quoted text


def test_json_and_parquet_keep_hostile_texts_exact_and_the_terminal_stays_inert(
    tmp_path: Path,
    log: Command,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "outputs/hostile/provenance"
    for number, text in enumerate(HOSTILE):
        record = record_of(make_job(campaign="hostile", seed=number, prompt=text), prompt_name=text)
        write_part(folder, record)
    question = "SELECT prompt, prompt_name FROM log ORDER BY seed"
    rows = log("hostile", "--sql", question, "--json")
    assert [row["prompt"] for row in json.loads(rows)] == list(HOSTILE)
    log("hostile", "--parquet", str(tmp_path / "all.parquet"))
    kept = pl.read_parquet(tmp_path / "all.parquet").sort("seed")
    assert kept["prompt"].to_list() == list(HOSTILE)
    steering = ("\x1b", "\u202e", "\u200b", "\x00", "\r")
    for shown in (log("hostile"), log("hostile", "--sql", question), rows):
        assert not [sign for sign in steering if sign in shown]
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    capsys.readouterr()
    console.say_data(as_csv(kept.select("prompt")).decode())
    assert not [sign for sign in steering if sign in capsys.readouterr().out]


def test_json_has_no_number_that_json_does_not_know(log: Command) -> None:
    told = log("--sql", "SELECT total_s / (total_s - total_s) AS x FROM log LIMIT 1", "--json")
    assert json.loads(told, parse_constant=pytest.fail) == [{"x": None}]


def test_columns_are_listed_with_their_meaning(log: Command) -> None:
    told = json.loads(log("--columns", "--json"))
    assert [column["name"] for column in told] == [column.name for column in columns()]
    assert "Seconds sampling." in log("--columns")


def counts_by_duckdb(files: Path) -> dict[str, int]:
    with duckdb.connect() as database:
        found = database.execute(
            "SELECT status, count(*) FROM read_parquet(?, union_by_name = true) GROUP BY status",
            [str(files)],
        )
        return dict(found.fetchall())


def test_duckdb_counts_as_we_do_in_parts_and_folded(tmp_path: Path) -> None:
    """A campaign that really renders: two clips, one failure."""
    settings = Settings(workspace=tmp_path)
    jobs = [
        make_sleeper_job(text, seed=n) for n, text in enumerate(("one", "two", "fault=exception"))
    ]
    files = settings.campaign_dir("trial") / "provenance/*.parquet"
    with (
        lock_campaign(settings.campaign_dir("trial")) as lock,
        open_campaign(
            lock, plan_of(*jobs), InProcessPool(settings, "cpu"),
            settings=settings, faces=Preflight({}, {}), observer=Watcher(),
        ) as campaign,
    ):  # fmt: skip
        for turn in campaign.turns():
            campaign.render_row(turn)
        in_parts = counts_by_duckdb(files)
        assert len(list(files.parent.glob("part-*"))) == sum(in_parts.values()) >= 3
    assert [p.name[:4] for p in files.parent.glob("*.parquet")] == ["log-"]
    ours = asked(
        read_log("trial", settings=settings), "SELECT status, count(*) FROM log GROUP BY status"
    )
    assert counts_by_duckdb(files) == in_parts == dict(ours.iter_rows())
    assert in_parts["rendered"] == 2
    made = read_log("trial", settings=settings).filter(pl.col("status") == "rendered")
    assert set(made["ffmpeg_version"]) != {""}
    failed = read_log("trial", settings=settings).filter(pl.col("code") == ErrorCode.INTERNAL)
    (stderr,) = failed["stderr"]
    assert stderr.endswith("ZeroDivisionError: a bug in the null renderer")
    assert len(stderr.splitlines()) > 2


def test_a_hundred_thousand_rows_are_asked_within_a_second(
    tmp_path: Path, figure: Callable[[str], None]
) -> None:
    number = pl.int_range(rows := 100_000)
    digest = pl.concat_str(pl.lit("a" * 24), number.hash(1).cast(pl.String).str.zfill(40))
    big = pl.DataFrame([asdict(record_of(make_job()))], schema=dict(record_columns()))
    big = big.select(pl.all().gather(pl.zeros(rows, pl.Int64, eager=True))).with_columns(
        pl.format("A walk on the beach, number {}.", number).alias("prompt"),
        *(digest.alias(name) for name in ("job_id", "clip_digest", "frames_digest")),
        finished_at=pl.col("finished_at") + pl.duration(seconds=number),
        seed=number,
        status=pl.when(number % 20 == 0).then(pl.lit("failed")).otherwise(pl.lit("rendered")),
        total_s=(number % 100).cast(pl.Float64),
    )
    data = encode(big, packed=True)
    settings = Settings(workspace=tmp_path)
    folder = settings.campaign_dir("big") / "provenance"
    folder.mkdir(parents=True)
    end = stamp_of(big["finished_at"][-1])
    (folder / f"log-{end}-{rows}-{digest_bytes(data)[:32]}.parquet").write_bytes(data)
    times: list[float] = []
    for _ in range(3):
        started = time.monotonic()
        log = read_log("big", settings=settings)
        found = matching(log, "status = 'failed' and total_s > 60")
        counts = asked(log, "SELECT status, count(*), avg(total_s) FROM log GROUP BY status")
        times.append(time.monotonic() - started)
        assert (log.height, found.height, counts.height) == (rows, 1000, 2)
    figure(f"LOG rows={rows} read, filtered and counted in {min(times):.2f} s")
    assert min(times) < 1.0


def test_record_names_files_of_the_workspace_relative_and_others_whole(tmp_path: Path) -> None:
    from lynx_engine.provenance.record import make_record
    from tests.support.jobs import planned, rendered

    inside, outside = tmp_path / "w/photos/海滩.png", tmp_path / "else/film.safetensors"
    job = make_job(
        photos=(inside,), loras=(Lora("d" * 64, 0.5, outside),), consent_written='["host"]'
    )
    moment = record_of(job).started_at
    record = make_record(
        planned(job), rendered(job), run_id="r", started_at=moment, finished_at=moment,
        key=b"k", workspace=tmp_path / "w",
    )  # fmt: skip
    assert json.loads(record.photos) == ["photos/海滩.png"]
    assert json.loads(record.lora_files) == [str(outside)]
    assert len(record.consent_id) == 16
    assert json.loads(record_of(job).photos) == [str(inside)]
