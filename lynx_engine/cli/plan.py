"""`lynx-engine plan`: what would run and why; nothing is rendered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lynx_engine.cli.options import (
    JsonOption,
    LimitOption,
    ManifestArgument,
    ModelsOption,
    OnlyOption,
    SkipOption,
    models_flags,
    parse_only,
)
from lynx_engine.speed import EXACT

if TYPE_CHECKING:
    from lynx_engine.jobs import RenderJob, RenderPlan
    from lynx_engine.planning import PlanFacts

EXAMPLE = "Example: lynx-engine plan manifests/quickstart.yaml --only subject=astronaut"


def command(
    manifest: ManifestArgument,
    only: OnlyOption = None,
    limit: LimitOption = None,
    skip_bad_rows: SkipOption = False,
    models: ModelsOption = None,
    json: JsonOption = False,
) -> None:
    """Say for every row whether it would run, is done, or waits for you, and why.

    Then what the rows need, whether they fit this machine's devices, and how long they will take.
    """
    from lynx_engine.capacity.machine import find_devices
    from lynx_engine.cli.console import note, say, say_long_json, show_table
    from lynx_engine.cli.forecasts import (
        COLUMNS,
        campaign_as_json,
        eta_in_words,
        forecast_rows,
        look_ahead,
        table_rows,
        warnings_of,
    )
    from lynx_engine.diskspace import bytes_in_words, estimate_bytes, measured_sizes
    from lynx_engine.manifest.read import read_manifest
    from lynx_engine.planning import plan_renders
    from lynx_engine.settings import load_settings
    from lynx_engine.survey import CLIPS_FOLDER, gather_facts

    settings = load_settings(manifest, **models_flags(models))
    read = read_manifest(manifest, lenient=True)
    facts = gather_facts(read, settings)
    plan = plan_renders(
        read,
        facts,
        skip_bad_rows=skip_bad_rows,
        only=parse_only(only),
        limit=limit,
    )
    clips = settings.campaign_dir(plan.campaign) / CLIPS_FOLDER
    disk = estimate_bytes(plan, measured_sizes(facts.by_job.values(), clips))
    forecaster, ahead = look_ahead(plan, settings, find_devices())
    kinds = forecast_rows(plan, forecaster)
    if json:
        forecast = campaign_as_json(kinds, ahead)
        say_long_json({**_as_json(plan, facts, disk), "forecast": forecast})
        return
    waiting = [
        *((p.job, "run", p.why) for p in plan.to_run),
        *((held.job, "held", held.why) for held in plan.held),
    ]
    if waiting:
        # Most plans take no shortcut, and a terminal is narrow.
        has_speed = any(_shortcuts(job) != EXACT for job, _, _ in waiting)
        speed = ("speed",) if has_speed else ()
        columns = ("", "subject", "prompt", "seed", "variant", "frames", "size", *speed, "why")
        rows = (
            (
                *(word, j.subject, j.prompt_name, j.seed, j.variant, j.frames, j.size),
                *((_shortcuts(j),) if has_speed else ()),
                why,
            )
            for j, word, why in waiting
        )
        show_table(plan.campaign, columns, rows)
    if kinds:
        show_table("", COLUMNS, table_rows(kinds))
    eta = eta_in_words(ahead, forecaster)
    say(
        f"{plan.campaign}: {len(plan.to_run)} to render, {len(plan.done)} done"
        + (f" ({len(plan.low_identity)} low identity)" if plan.low_identity else "")
        + (f", {len(plan.held)} held" if plan.held else "")
        + (f", {len(plan.problems)} problems" if plan.problems else "")
        + (f"; about {bytes_in_words(disk)} of disk" if plan.to_run else "")
        + (f"; {eta}" if plan.to_run and eta else "")
    )
    if told := gate_in_words(plan):
        say(told)
    for warning in warnings_of(kinds, ahead):
        note(warning)
    for problem in (*plan.warnings, *plan.problems):
        note(str(problem))


def gate_in_words(plan: RenderPlan) -> str:
    """Return what the identity gate asks for and may cost, "" without one."""
    from lynx_engine.gate import gate_of

    jobs = (*(p.job for p in plan.to_run), *plan.done, *(held.job for held in plan.held))
    gate = next((gate for gate in map(gate_of, jobs) if gate is not None), None)
    if gate is None:
        return ""
    most = f"up to {gate.attempts} seeds" if gate.attempts > 1 else "1 seed"
    told = (
        f"identity gate: {gate.min_score:g}, {most}, {gate.keep} kept, scored by {gate.evaluator}"
    )
    seeds, rows = plan.most_renderings, len(plan.to_run)
    if seeds > rows:
        plural = "s" * (rows > 1)
        told += f"; up to {seeds} renderings for {rows} row{plural}, times above are for one each"
    return told


def _shortcuts(job: RenderJob) -> str:
    """Return a job's lossy shortcut and its LoRAs, as in "distilled, few.safetensors@1"."""
    loras = [f"{lora.path.name}@{lora.scale:g}" for lora in job.loras]
    speed = [] if loras and job.speed == EXACT else [job.speed]
    return ", ".join([*speed, *loras])


def _as_json(plan: RenderPlan, facts: PlanFacts, disk: int) -> dict[str, object]:
    """Return a plan in plain values; the rows are made as they are printed."""
    return {
        "campaign": plan.campaign,
        "to_run": (
            {
                "job_id": p.job.job_id,
                "clip": p.job.clip_name,
                "where": p.job.where,
                "reason": p.reason,
                "why": p.why,
                "attempt": p.attempt,
                "first_try": p.first_try,
                "last_try": p.last_try,
                # All but the photo's digest, by which a log could be searched for a face.
                "request": {k: v for k, v in p.job.request().items() if k != "subject_digest"},
            }
            for p in plan.to_run
        ),
        # The recorded name: a row renamed since keeps its clip.
        "done": (
            {"job_id": job.job_id, "clip": facts.by_job[job.job_id].clip} for job in plan.done
        ),
        "low_identity": [job.job_id for job in plan.low_identity],
        "most_renderings": plan.most_renderings,
        "disk_bytes": disk,
        "held": [{"job_id": h.job.job_id, "why": h.why} for h in plan.held],
        "warnings": [warning.as_json() for warning in plan.warnings],
        "problems": [problem.as_json() for problem in plan.problems],
    }
