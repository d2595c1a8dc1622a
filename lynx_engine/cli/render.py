"""`lynx-engine render`: renders what is new, changed, missing, interrupted or failed."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lynx_engine.cli.options import (
    ClusterOption,
    DevicesOption,
    InProcessOption,
    JsonOption,
    LimitOption,
    LowVramOption,
    ManifestArgument,
    ModelsOption,
    OnlyOption,
    QuietOption,
    SkipOption,
    models_flags,
    parse_only,
)

if TYPE_CHECKING:
    from lynx_engine.history import RetryFilter
    from lynx_engine.jobs import PastResult, RenderPlan
    from lynx_engine.manifest.values import Manifest
    from lynx_engine.outcomes import CampaignSummary
    from lynx_engine.planning import PlanFacts
    from lynx_engine.settings import Settings

_CLIPS_NAMED = 3
_REASONS_TOLD = 20

MENDED_BY_HAND = ("face", "image", "lora", "consent", "withheld")
"""Failures that come back until the file is another one, or the request."""

EXAMPLE = "Example: lynx-engine render manifests/quickstart.yaml --only variant=tiny --limit 2"


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How `render` and `retry` run and speak; each is an option of the command line."""

    skip_bad_rows: bool
    devices: str
    cluster: str
    in_process: bool
    low_vram: bool
    quiet: bool
    as_json: bool
    models: Path | None = None


def command(
    manifest: ManifestArgument,
    only: OnlyOption = None,
    limit: LimitOption = None,
    skip_bad_rows: SkipOption = False,
    devices: DevicesOption = "auto",
    cluster: ClusterOption = "",
    in_process: InProcessOption = False,
    lowvram: LowVramOption = False,
    models: ModelsOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Render a manifest. Run it again and only what is missing is rendered."""
    options = RunOptions(
        skip_bad_rows=skip_bad_rows,
        devices=devices,
        cluster=cluster,
        in_process=in_process,
        low_vram=lowvram,
        quiet=quiet,
        as_json=json,
        models=models,
    )
    render_manifest(manifest, options, only=parse_only(only), limit=limit, retry=None)


def render_manifest(
    manifest: Path,
    options: RunOptions,
    *,
    only: list[tuple[str, str]],
    limit: int | None,
    retry: RetryFilter | None,
) -> None:
    """Read, plan, render and tell; shared by `render` and `retry`.

    Raises:
        LynxError: As reading, planning and rendering do.
        typer.Exit: With the run's exit code, unless it is 0.
    """
    from flows.reports import report_if_missing
    from lynx_engine.cli.console import note, say, say_json
    from lynx_engine.outcomes import idle_summary
    from lynx_engine.planning import plan_renders
    from lynx_engine.settings import load_settings
    from lynx_engine.survey import CLIPS_FOLDER

    settings = load_settings(manifest, **models_flags(options.models))

    def decide(read: Manifest, facts: PlanFacts) -> RenderPlan:
        skip = options.skip_bad_rows
        plan = plan_renders(read, facts, skip_bad_rows=skip, only=only, limit=limit, retry=retry)
        return with_memory(plan, "low") if options.low_vram else plan

    plan, past, remarks = _plan(manifest, settings, decide, skip_bad_rows=options.skip_bad_rows)
    for remark in () if options.quiet or options.as_json else remarks:
        note(remark)
    for problem in (*plan.warnings, *plan.problems):
        note(str(problem))
    for held in plan.held:
        note(f"{held.job.where}: held: {held.why}")
    if plan.to_run:
        summary = _run(plan, past, settings, options)
    else:
        summary = idle_summary(plan, settings.campaign_dir(plan.campaign) / CLIPS_FOLDER)
        summary = replace(summary, report=report_if_missing(plan.campaign, settings))
    told = summary_in_words(summary, manifest, retrying=retry is not None)
    if options.as_json:
        say_json(_as_json(summary))
    elif not options.quiet:
        say(told)
    elif summary.exit_code:
        note(told)
    if summary.exit_code:
        raise typer.Exit(summary.exit_code)


def with_memory(plan: RenderPlan, tier: str) -> RenderPlan:
    """Return the plan with every row to run in one memory tier, which is no part of a job's id."""
    to_run = tuple(replace(p, job=replace(p.job, memory=tier)) for p in plan.to_run)
    return replace(plan, to_run=to_run)


def _plan(
    manifest: Path,
    settings: Settings,
    decide: Callable[[Manifest, PlanFacts], RenderPlan],
    *,
    skip_bad_rows: bool,
) -> tuple[RenderPlan, Iterable[PastResult], list[str]]:
    """Plan, and look at the faces that will be needed; tell the problems of both at once.

    Returns:
        The plan, the attempts that were made before, and one line for each photo that is only poor.

    Raises:
        RefusedError: With every problem.
    """
    from lynx_engine.errors import RefusedError
    from lynx_engine.likeness import with_outliers
    from lynx_engine.manifest.read import in_file_order, read_manifest
    from lynx_engine.preflight import face_problems, faults, look_at_photos, photo_vault
    from lynx_engine.survey import gather_facts

    read = read_manifest(manifest, lenient=True)
    facts = gather_facts(read, settings)
    vault = photo_vault(settings)
    try:
        plan = decide(read, facts)
    except RefusedError as error:
        problems = (*error.problems, *face_problems(read, facts, vault=vault))
        raise RefusedError(in_file_order(problems)) from None
    needed = {p.job.subject for p in plan.to_run if p.job.photos}
    reports = look_at_photos(read, facts, vault=vault, subjects=needed)
    reports = with_outliers(reports, settings=settings, vault=vault)
    problems = faults(reports)
    if problems and not skip_bad_rows:
        raise RefusedError(problems)
    return plan, facts.by_job.values(), [r.remark for r in reports if r.remark and not r.fault]


def _run(
    plan: RenderPlan, past: Iterable[PastResult], settings: Settings, options: RunOptions
) -> CampaignSummary:
    from flows.run import render
    from lynx_engine.cli.console import note
    from lynx_engine.cli.forecasts import opening_line
    from lynx_engine.cli.progress import watching
    from lynx_engine.diskspace import check_space
    from lynx_engine.pool import find_devices
    from lynx_engine.provenance.credentials import Credentials

    quiet = options.quiet or options.as_json
    folder = settings.campaign_dir(plan.campaign)
    devices = () if options.cluster else find_devices(options.devices)
    _check_attention(plan, settings, devices)
    credentials = Credentials.load(settings)
    for warning in () if credentials is None else credentials.warnings():
        note(str(warning))
    if settings.disk_check:
        check_space(plan, folder, devices, past)
    if not quiet:
        where = "this process" if options.in_process else options.cluster or ", ".join(devices)
        ahead = "" if options.cluster else opening_line(plan, settings, options.devices)
        note(
            f"{plan.campaign}: {len(plan.to_run)} to render, {len(plan.done)} done, on {where}"
            + (f"; {ahead}" if ahead else "")
        )
    with watching(len(plan.to_run), quiet=quiet) as observer:
        return render(
            plan,
            settings=settings,
            devices=options.devices,
            cluster=options.cluster,
            skip_bad_rows=options.skip_bad_rows,
            in_process=options.in_process,
            observer=observer,
        )


def _check_attention(plan: RenderPlan, settings: Settings, devices: Iterable[str]) -> None:
    """Refuse an attention backend that a device of this machine cannot run.

    A cluster's devices are not looked at from here; there the rows fail with the same words.

    Raises:
        RefusedError: Naming each device, and what to install.
    """
    if settings.attention in {"auto", "native"}:
        return
    from lynx_engine.models.backends import DeviceFacts, check_attention, installed_packages
    from lynx_engine.pool.devices import compute_capability

    packages = installed_packages()
    precisions = {row.job.precision for row in plan.to_run if row.job.numerics != "strict"}
    capabilities = {device: compute_capability(device) for device in devices}
    check_attention(
        settings.attention,
        [
            DeviceFacts(device, capability, packages, precision)
            for device, capability in capabilities.items()
            # A GPU that does not tell is left to its worker.
            if capability is not None or device.startswith("cpu")
            for precision in sorted(precisions)
        ],
    )


def summary_in_words(summary: CampaignSummary, manifest: Path, *, retrying: bool) -> str:
    """Return how a run ended, for a person; `manifest` stands in the advice."""
    lines: list[str] = []
    # Without an id, the weak clips are of earlier runs.
    weak_now = bool(summary.run_id and summary.low_identity)
    if summary.rendered or summary.failures or summary.interrupted or weak_now:
        parts = [f"{summary.rendered} rendered"]
        parts += [f"{summary.low_identity} low identity"] if summary.low_identity else []
        parts += [f"{summary.failed} failed"] if summary.failed else []
        parts += [f"{summary.withheld} withheld"] if summary.withheld else []
        parts += [f"{summary.interrupted} left"] if summary.interrupted else []
        parts += [f"{summary.done_before} done before"] if summary.done_before else []
        lines.append(f"{summary.campaign}: {', '.join(parts)}. Clips: {summary.clips}")
    elif retrying:
        lines.append(f"{summary.campaign}: nothing to retry.")
    else:
        withheld = f", {summary.withheld} withheld" if summary.withheld else ""
        withheld += f", {summary.failed} failed or refused" if summary.failed else ""
        done = "1 clip is" if summary.done_before == 1 else f"{summary.done_before} clips are"
        lines.append(
            f"{summary.campaign}: nothing to do; {done} done{withheld}. Clips: {summary.clips}"
        )
    lines += failure_lines(summary.failures)
    lines += [f"  {device} got no further row: {why}." for device, why in summary.blocked.items()]
    lines += [
        f"  adopted {clip}: a run that was killed had made it; its record is in place now."
        for clip in summary.adopted
    ]
    if summary.paused:
        why = summary.paused.rstrip(".")
        lines.append(
            f"Paused: {why}. Nothing is lost: once that is mended, run the same command again."
        )
    elif summary.stopped_by:
        lines.append("Stopped. Run the same command again to go on.")
    elif any(not why.startswith(MENDED_BY_HAND) for why in summary.failures.values()):
        name = shlex.quote(str(manifest))
        lines.append(f"`lynx-engine retry {name}` tries the failed rows again.")
    if summary.low_identity and not (summary.paused or summary.stopped_by):
        lines += _weak_lines(summary.low_identity, shlex.quote(str(manifest)))
    if summary.report is not None:
        lines.append(f"Report: {summary.report}")
    return "\n".join(lines)


def _weak_lines(count: int, manifest: str) -> list[str]:
    clips = "1 clip is" if count == 1 else f"{count} clips are"
    return [
        f"{clips} under the identity gate; `lynx-engine status {manifest}` tells how far.",
        f"`lynx-engine retry {manifest} --status low_identity` tries further seeds.",
    ]


def failure_lines(failures: Mapping[str, str]) -> list[str]:
    """Return what failed; rows that share code and message are told once.

    Args:
        failures: Clip name -> code and message.
    """
    alike: dict[str, list[str]] = {}
    for clip, why in failures.items():
        alike.setdefault(why, []).append(clip)
    lines: list[str] = []
    for why, clips in list(alike.items())[:_REASONS_TOLD]:
        told = why.removeprefix("withheld: ")
        ended = "failed" if told == why else "withheld"
        if len(clips) == 1:
            lines.append(f"  {ended} {clips[0]}: {told}")
            continue
        rest = len(clips) - _CLIPS_NAMED
        named = ", ".join(clips[:_CLIPS_NAMED]) + (f" and {rest} more" if rest > 0 else "")
        lines.append(f"  {len(clips)} rows {ended}: {told}\n    {named}")
    untold = sum(len(clips) for clips in list(alike.values())[_REASONS_TOLD:])
    if untold:
        lines.append(f"  {untold} rows failed for other reasons; `lynx-engine status` names each.")
    return lines


def _as_json(summary: CampaignSummary) -> dict[str, object]:
    report = None if summary.report is None else str(summary.report)
    told = {**asdict(summary), "clips": str(summary.clips), "report": report}
    return {**told, "exit_code": int(summary.exit_code)}
