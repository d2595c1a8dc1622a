"""P1, P2 and P6: what a campaign saves over single runs, and what its devices wait between rows.

    python -m tests.benchmarks.bench_campaign [--quick]

Prints a table, and one JSON line last. Needs an idle machine.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest.mock import patch

from PIL import Image, ImageOps

from flows.run import Silence
from lynx_engine.campaign import open_campaign
from lynx_engine.engine import RenderEngine, WorkCounters
from lynx_engine.lock import lock_campaign
from lynx_engine.manifest.read import read_manifest
from lynx_engine.models.text import REFERENCE_PROMPT
from lynx_engine.planning import plan_renders
from lynx_engine.pool import InProcessPool, local
from lynx_engine.preflight import find_subject_faces
from lynx_engine.provenance.store import read_parts
from lynx_engine.settings import load_settings
from lynx_engine.shapes import FrameSize
from lynx_engine.survey import gather_facts
from tests.benchmarks import timeline
from tests.benchmarks.bench_fanout import CACHE, run_log, sleepers
from tests.benchmarks.figures import is_quick, tell
from tests.support.jobs import astronaut
from tests.support.workspaces import Workspace

SEEDS = 5
ROUNDS = 3
MANIFEST = """
campaign: trial
defaults: {{variant: tiny, size: 64x64, frames: 9, steps: 4}}
subjects:
  left: {{image: left.png, consent: {{basis: public-domain}}}}
  right: {{image: right.png, consent: {{basis: public-domain}}}}
prompts:
  pumpkin: A person carves a pumpkin on a porch in the evening.
  beach: A person walks along a beach at sunrise.
matrix:
  - {{subject: [left, right], prompt: [pumpkin, beach], seed: 1..{seeds}}}
"""
SUBJECTS, PROMPTS = 2, 2


@dataclass(frozen=True)
class Work:
    """What a campaign did, and what it need not do twice.

    Attributes:
        done: The engine's counters.
        needed: What they are when no work is done twice.
        loads: Rows that were charged with loading a model.
        rows: Clips rendered.
    """

    done: WorkCounters
    needed: WorkCounters
    loads: int
    rows: int

    @property
    def is_exact(self) -> bool:
        """Whether nothing was done twice."""
        return self.done == self.needed and self.loads == 1


def write_campaign(folder: Path, *, seeds: int) -> Path:
    """Write photos and manifest of 4 * `seeds` tiny rows; return the manifest."""
    (folder / "lynx.toml").touch()
    with Image.open(astronaut()) as photo:
        photo.save(folder / "left.png")
        ImageOps.mirror(photo).save(folder / "right.png")
    manifest = folder / "trial.yaml"
    manifest.write_text(MANIFEST.format(seeds=seeds), encoding="utf-8")
    return manifest


def count_work(folder: Path, *, seeds: int) -> Work:
    """Render the campaign in this process and read what its engine counted."""
    manifest = write_campaign(folder, seeds=seeds)
    settings = load_settings(manifest, cache=CACHE)
    read = read_manifest(manifest)
    plan = plan_renders(read, gather_facts(read, settings))
    pool = InProcessPool(settings, "cpu")
    with (
        lock_campaign(settings.campaign_dir(plan.campaign)) as lock,
        open_campaign(
            lock,
            plan,
            pool,
            settings=settings,
            faces=find_subject_faces(plan),
            observer=Silence(),
        ) as campaign,
    ):
        for turn in campaign.turns():
            campaign.render_row(turn)
    job = plan.to_run[0].job
    engine = pool._worker.load(job.variant, job.precision).engine
    assert isinstance(engine, RenderEngine)
    log = read_parts(settings.campaign_dir(plan.campaign) / "provenance")
    rows = len(log.filter(log["status"] == "rendered"))
    needed = WorkCounters(
        model_loads=1,
        text_encodes=PROMPTS + len({job.negative_prompt, REFERENCE_PROMPT}),
        face_runs=SUBJECTS,
        reference_passes=(SUBJECTS + 1) * seeds,
        kv_sets=2 * rows,
        vae_decodes=rows,
    )
    return Work(engine.counters, needed, len(log.filter(log["load_s"] > 0)), rows)


def seconds_of(arguments: Sequence[str], *, seeds: int) -> float:
    """Return how long the installed command takes to render, in a workspace of its own."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder), {"LYNX_CACHE": str(CACHE)})
        manifest = write_campaign(workspace.folder, seeds=seeds)
        started = time.perf_counter()
        done = workspace.run("render", manifest, "--quiet", *arguments)
        took_s = time.perf_counter() - started
        assert done.returncode == 0, done.stderr
        wanted = 1 if "--limit" in arguments else 4 * seeds
        assert len(workspace.clips("trial")) == wanted
        return took_s


def speedup(*mode: str, seeds: int, rounds: int) -> tuple[float, float, float]:
    """Compare one campaign with as many runs of one row each.

    Args:
        mode: Further arguments of both commands.
        seeds: A quarter of the campaign's rows.
        rounds: Single runs; campaigns go between them.

    Returns:
        How many times faster the campaign is; its seconds; the seconds of a single run.
    """
    single: list[float] = []
    campaign: list[float] = []
    for n in range(rounds):
        single.append(seconds_of(["--limit", "1", *mode], seeds=seeds))
        if n < max(rounds - 1, 1):
            campaign.append(seconds_of(mode, seeds=seeds))
    alone_s, together_s = statistics.median(single), statistics.median(campaign)
    return 4 * seeds * alone_s / together_s, together_s, alone_s


def idle_between_rows(*, rows: int, length_s: float, rounds: int) -> tuple[float, float]:
    """Return the share a device is idle between rows, with a finishing thread and without.

    The null renderer sleeps where a model would render; frames, encoder, check and log are real.
    """
    size = FrameSize(832, 480)
    jobs = sleepers([length_s] * rows, size=size, frames=17)
    shares: dict[int, list[float]] = {local.THREADS: [], 1: []}
    for threads in (local.THREADS, 1, 1, local.THREADS)[: 2 * rounds]:
        with patch.object(local, "THREADS", threads):
            log = run_log(jobs, "cpu", warm=sleepers([0.1, 0.1], size=size, frames=17))
        shares[threads].append(timeline.idle_share(log))
    with_overlap, without = (statistics.median(measured) for measured in shares.values())
    return with_overlap, without


def main() -> int:
    """Measure and tell."""
    quick = is_quick()
    seeds, rounds = (1, 1) if quick else (SEEDS, ROUNDS)
    with tempfile.TemporaryDirectory() as folder:
        work = count_work(Path(folder), seeds=seeds)  # it also makes tiny's weights
    for name, count in asdict(work.done).items():
        sys.stdout.write(f"{name:<20}{count:>6}, needed {getattr(work.needed, name)}\n")
    faster, together_s, alone_s = speedup("--in-process", seeds=seeds, rounds=rounds)
    figures = {
        "P1": faster,
        "P1_campaign_s": together_s,
        "P1_one_row_s": alone_s,
        "P2": float(work.is_exact),
    }
    if not quick:
        figures["P1_prefect"], *_ = speedup(seeds=seeds, rounds=2)
    length_s, rows = (0.3, 3) if quick else (3.0, 10)
    figures["P6"], figures["P6_without_overlap"] = idle_between_rows(
        rows=rows, length_s=length_s, rounds=1 if quick else 2
    )
    return tell(figures)


if __name__ == "__main__":
    sys.exit(main())
