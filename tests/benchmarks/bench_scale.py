"""P8: what a hundred thousand rows cost to read, plan and resume, and ten thousand to render.

    python -m tests.benchmarks.bench_scale [--quick]

Each command runs in a process of its own. Its figure is the processor time of the whole process,
start included, and its peak memory. Prints how both grow, and one JSON line last.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
from PIL import Image

from lynx_engine.digest import digest_bytes
from lynx_engine.lock import LIVE_FILE
from lynx_engine.manifest.read import read_manifest
from lynx_engine.planning import plan_renders
from lynx_engine.provenance.environment import make_workspace_key
from lynx_engine.provenance.files import DIGEST_CHARACTERS, write_index
from lynx_engine.provenance.record import make_record
from lynx_engine.provenance.schema import ProvenanceRecord, record_columns
from lynx_engine.provenance.store import FOLDER, encode, read_parts, stamp_of
from lynx_engine.settings import load_settings
from lynx_engine.survey import CLIPS_FOLDER, gather_facts
from tests.benchmarks import timeline
from tests.benchmarks.figures import is_quick, tell
from tests.support.jobs import astronaut, rendered
from tests.support.workspaces import COMMAND, Workspace

SUBJECTS, PROMPTS = 20, 500
VARIANTS = ("tiny", "tiny_lite")
SIZES = (1_000, 10_000, 100_000)
CAMPAIGN_ROWS = 10_000
ROUNDS = 3
_MB = 1e6


@dataclass(frozen=True, slots=True)
class Asked:
    """A row as manifests write it, by numbers."""

    subject: int
    prompt: int
    seed: int
    variant: str


def asked(count: int) -> Iterator[Asked]:
    """Give `count` rows: every subject and variant with every prompt, seed by seed."""
    product = (
        Asked(subject, prompt, seed, variant)
        for seed in itertools.count()
        for prompt in range(PROMPTS)
        for subject in range(SUBJECTS)
        for variant in VARIANTS
    )
    return itertools.islice(product, count)


def csv_lines(count: int, *, distinct: bool) -> Iterator[str]:
    """Give a table; with `distinct`, no prompt stands twice in it."""
    yield "subject,image,consent_basis,prompt,seed,variant,frames"
    for number, row in enumerate(asked(count)):
        text = f"Walking, take {number if distinct else row.prompt} of many."
        photo = f"s{row.subject},s{row.subject}.png,self"
        yield f'{photo},"{text}",{row.seed},{row.variant},9'


def json_lines(count: int) -> Iterator[str]:
    """Give one object a line; a photo stands where its subject is first named."""
    for number, row in enumerate(asked(count)):
        told = {"subject": f"s{row.subject}", "prompt": f"Walking {row.prompt}"}
        told |= {"seed": row.seed, "variant": row.variant}
        if number < SUBJECTS * len(VARIANTS):
            told |= {"image": f"s{row.subject}.png", "consent_basis": "self"}
        yield json.dumps(told, separators=(",", ":"))


def yaml_lines(count: int, *, matrix: bool) -> Iterator[str]:
    """Give a manifest of a few lines whose product is `count` rows, or one that writes each."""
    yield "defaults: {frames: 9}"
    yield "subjects:"
    for n in range(SUBJECTS):
        yield f"  s{n}: {{image: s{n}.png, consent: {{basis: self}}}}"
    yield "prompts:"
    for n in range(PROMPTS):
        yield f"  p{n}: Walking, take {n} of many."
    if not matrix:
        yield "rows:"
        for row in asked(count):
            names = f"subject: s{row.subject}, prompt: p{row.prompt}"
            yield f"  - {{{names}, seed: {row.seed}, variant: {row.variant}}}"
        return
    each = SUBJECTS * len(VARIANTS)
    prompts = min(PROMPTS, count // each)
    yield "matrix:"
    yield f"  - subject: [{', '.join(f's{n}' for n in range(SUBJECTS))}]"
    yield f"    prompt: [{', '.join(f'p{n}' for n in range(prompts))}]"
    yield f"    variant: [{', '.join(VARIANTS)}]"
    yield f"    seed: 1..{count // (each * prompts)}"


FORMS = {
    "csv": lambda count: csv_lines(count, distinct=False),
    "distinct": lambda count: csv_lines(count, distinct=True),
    "jsonl": json_lines,
    "matrix": lambda count: yaml_lines(count, matrix=True),
    "rows": lambda count: yaml_lines(count, matrix=False),
}
SUFFIXES = {"csv": "csv", "distinct": "csv", "jsonl": "jsonl", "matrix": "yaml", "rows": "yaml"}


def make_workspace(folder: Path) -> Workspace:
    """Return a workspace with a photo for each subject."""
    (folder / "lynx.toml").touch()
    with Image.open(astronaut()) as photo:
        for n in range(SUBJECTS):
            photo.putpixel((0, 0), (n, n, n))
            photo.save(folder / f"s{n}.png")
    return Workspace(folder)


def write_manifest(workspace: Workspace, form: str, count: int) -> Path:
    """Write a manifest of `count` rows."""
    lines = FORMS[form](count)
    return workspace.write(f"{form}{count}.{SUFFIXES[form]}", "\n".join(lines) + "\n")


def write_past(manifest: Path) -> None:
    """Leave what a finished campaign leaves: a folded log, clips, and its report."""
    settings = load_settings(manifest)
    read = read_manifest(manifest)
    plan = plan_renders(read, gather_facts(read, settings))
    folder = settings.campaign_dir(plan.campaign)
    (folder / CLIPS_FOLDER).mkdir(parents=True)
    (folder / FOLDER).mkdir()
    key = make_workspace_key(settings.state_dir)
    began = datetime(2026, 11, 1, tzinfo=UTC)
    records: list[ProvenanceRecord] = []
    for number, planned in enumerate(plan.to_run):
        ended = began + timedelta(seconds=number)
        result = rendered(planned.job)
        records.append(
            make_record(planned, result, run_id="r", started_at=ended, finished_at=ended, key=key)
        )
        clip = folder / CLIPS_FOLDER / result.clip
        clip.touch()
        os.truncate(clip, result.facts.bytes)
    schema = record_columns()
    values = [[getattr(record, name) for name in schema] for record in records]
    data = encode(pl.DataFrame(values, schema=schema, orient="row"), packed=True)
    ended = records[-1].finished_at
    name = f"log-{stamp_of(ended)}-{len(records)}-{digest_bytes(data)[:DIGEST_CHARACTERS]}.parquet"
    (folder / FOLDER / name).write_bytes(data)
    write_index(folder / FOLDER, [name])
    (folder / "report.html").write_text("<!doctype html>", encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Spent:
    """What one command cost.

    Attributes:
        cpu_s: Processor seconds, start included.
        peak_mb: The most memory it held, in MB.
        wall_s: Seconds until it ended.
    """

    cpu_s: float
    peak_mb: float
    wall_s: float


def spend(workspace: Workspace, *arguments: str | Path) -> Spent:
    """Run one command to its good end."""
    started = time.perf_counter()
    with tempfile.TemporaryFile() as told:
        process = subprocess.Popen(
            [COMMAND, *map(str, arguments)],
            cwd=workspace.folder,
            env=workspace.environment(),
            stdout=subprocess.DEVNULL,
            stderr=told,
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        told.seek(0)
        assert process.returncode == 0, told.read().decode()
    took_s = time.perf_counter() - started
    return Spent(used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / _MB, took_s)


def best(workspace: Workspace, *arguments: str | Path, rounds: int) -> Spent:
    """Return the cheapest of several runs: whatever else runs on the machine only adds."""
    return min((spend(workspace, *arguments) for _ in range(rounds)), key=lambda s: s.cpu_s)


def say(what: str, count: int, spent: Spent) -> None:
    """Print one line of the table of growth."""
    sys.stdout.write(f"{what:<24}{count:>9,}{spent.cpu_s:>8.2f} s{spent.peak_mb:>7.0f} MB\n")
    sys.stdout.flush()


def reading_and_planning(
    sizes: Sequence[int], *, rounds: int, forms: Sequence[str] = tuple(FORMS)
) -> dict[str, float]:
    """Check manifests of every form, and plan one, at each size."""
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        workspace = make_workspace(Path(folder))
        for form in forms:
            for count in sizes:
                manifest = write_manifest(workspace, form, count)
                spent = best(workspace, "check", manifest, rounds=rounds)
                say(f"check, {form}", count, spent)
                figures[f"P8_{form}_s"] = spent.cpu_s
                figures[f"P8_{form}_mb"] = spent.peak_mb
        for options in ((), ("--json",)):
            for count in sizes:
                manifest = workspace.folder / f"csv{count}.csv"
                spent = best(workspace, "plan", manifest, *options, rounds=rounds)
                say(f"plan {' '.join(options)}", count, spent)
                figures[f"P8_plan{'_json' if options else ''}_s"] = spent.cpu_s
                figures[f"P8_plan{'_json' if options else ''}_mb"] = spent.peak_mb
    return figures


def resuming(sizes: Sequence[int], *, rounds: int) -> dict[str, float]:
    """Render finished campaigns again, and look at them."""
    figures: dict[str, float] = {}
    for count in sizes:
        with tempfile.TemporaryDirectory() as folder:
            workspace = make_workspace(Path(folder))
            manifest = write_manifest(workspace, "csv", count)
            write_past(manifest)
            told = workspace.json("render", manifest)
            assert (told["rendered"], told["done_before"]) == (0, count), told
            for name, command in (
                ("resume", ("render", manifest)),
                ("plan_done", ("plan", manifest)),
                ("status", ("status", f"csv{count}")),
                ("status_manifest", ("status", manifest)),
            ):
                spent = best(workspace, *command, rounds=rounds)
                say(name, count, spent)
                figures[f"P8_{name}_s"] = spent.cpu_s
                figures[f"P8_{name}_mb"] = spent.peak_mb
                if count == CAMPAIGN_ROWS and name == "resume":
                    figures["P8_resume_10000_s"] = spent.wall_s
    return figures


def night(rows: int, *mode: str) -> dict[str, float]:
    """Render a campaign of null rows, and look at it from another terminal meanwhile."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        lines = ["prompt,seed,variant", *(f"sleep=0.1,{n},sleeper" for n in range(rows))]
        manifest = workspace.write("night.csv", lines)
        started = time.perf_counter()
        with tempfile.TemporaryFile() as told:
            process = subprocess.Popen(
                [COMMAND, "render", manifest, "--quiet", "--devices", "cpu", *mode],
                cwd=workspace.folder,
                env=workspace.environment(),
                stdout=told,
                stderr=told,
            )
            live = workspace.folder / "outputs" / "night" / LIVE_FILE
            beside: dict[str, list[Spent]] = {"status": [], "plan": []}
            while process.poll() is None:
                if live.exists():
                    beside["status"].append(spend(workspace, "status", "night"))
                    beside["plan"].append(spend(workspace, "plan", manifest))
                time.sleep(rows / 1000)
            told.seek(0)
            assert process.returncode == 0, told.read().decode()
        took_s = time.perf_counter() - started
        log = read_parts(workspace.folder / "outputs" / "night" / FOLDER)
    assert len(log) == rows
    assert set(log["status"]) == {"rendered"}
    waits = timeline.waits_s(log)
    tenth = max(len(waits) // 10, 1)
    figures = {
        "scale_night_s": took_s,
        "scale_wait_ms": 1000 * float(waits.median() or 0.0),  # type: ignore[arg-type]
        "scale_wait_first_tenth_ms": 1000 * float(waits.head(tenth).median() or 0.0),  # type: ignore[arg-type]
        "scale_wait_last_tenth_ms": 1000 * float(waits.tail(tenth).median() or 0.0),  # type: ignore[arg-type]
    }
    for name, runs in beside.items():
        if runs:
            figures[f"scale_{name}_beside_s"] = max(spent.cpu_s for spent in runs)
    return figures


def main() -> int:
    """Measure and tell."""
    if is_quick():
        figures = reading_and_planning((40,), rounds=1, forms=("csv",))
        figures |= resuming((40,), rounds=1)
        return tell(figures | night(6, "--in-process"))
    figures = reading_and_planning(SIZES, rounds=ROUNDS)
    figures |= resuming(SIZES, rounds=ROUNDS)
    return tell(figures | night(CAMPAIGN_ROWS))


if __name__ == "__main__":
    sys.exit(main())
