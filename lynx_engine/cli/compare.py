"""`lynx-engine compare`: one line a variant, as papers show it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lynx_engine.cli.options import (
    JsonOption,
    ManifestArgument,
    ModelsOption,
    OnlyOption,
    SkipOption,
    models_flags,
    parse_only,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lynx_engine.comparison.measuring import DoneClip
    from lynx_engine.comparison.statistics import Column, Comparison, Estimate
    from lynx_engine.jobs import RenderPlan
    from lynx_engine.manifest.values import Manifest
    from lynx_engine.planning import PlanFacts
    from lynx_engine.settings import Settings

EXAMPLE = "Example: lynx-engine compare manifests/quickstart.yaml --only subject=astronaut"
PAGE = "compare.html"


def command(
    manifest: ManifestArgument,
    only: OnlyOption = None,
    skip_bad_rows: SkipOption = False,
    models: ModelsOption = None,
    json: JsonOption = False,
) -> None:
    """Score the done clips with every recogniser there is; show a line a variant.

    Also written: compare.parquet, a row a clip, and compare.html, both beside the clips' log.
    """
    from lynx_engine.cli.console import note, say, say_json
    from lynx_engine.comparison.measuring import FILE, Measuring, columns_of, find_judges
    from lynx_engine.comparison.statistics import compare_variants
    from lynx_engine.errors import ExitCode
    from lynx_engine.manifest.read import read_manifest
    from lynx_engine.planning import plan_renders
    from lynx_engine.provenance.files import write_durably
    from lynx_engine.report.comparison_page import compare_page
    from lynx_engine.settings import load_settings
    from lynx_engine.survey import gather_facts

    settings = load_settings(manifest, **models_flags(models))
    read = read_manifest(manifest, lenient=True)
    facts = gather_facts(read, settings)
    plan = plan_renders(read, facts, skip_bad_rows=skip_bad_rows, only=parse_only(only))
    for problem in (*plan.warnings, *plan.problems):
        note(str(problem))
    clips = _done_clips(read, plan, facts, settings)
    folder = settings.campaign_dir(plan.campaign)
    measuring = Measuring(folder / FILE, find_judges(settings))
    if not json:
        note(f"{plan.campaign}: looking at {len(clips)} clips")
    scored = measuring.measure(clips, lambda _: None)
    there = {clip.variant for clip in scored}
    order = [name for name in _variants_of(read) if name in there]
    found = compare_variants(scored, order, columns_of(measuring.judges))
    page = folder / PAGE
    write_durably(page, compare_page(plan.campaign, found).encode())
    for problem in measuring.problems:
        note(str(problem))
    if json:
        files = {"table": str(folder / FILE), "page": str(page)}
        waiting = len(plan.to_run) + len(plan.held)
        say_json({"campaign": plan.campaign, "not_done": waiting, **asdict(found), "files": files})
    else:
        _show(plan.campaign, found)
        known = f", {measuring.reused} of them known before" if measuring.reused else ""
        say(f"{len(scored)} clips{known}. {page}, {folder / FILE}")
        if plan.to_run or plan.held:
            note(f"{len(plan.to_run) + len(plan.held)} rows have no clip yet and do not count.")
    if measuring.problems:
        raise typer.Exit(ExitCode.DAMAGED)


def _done_clips(
    manifest: Manifest, plan: RenderPlan, facts: PlanFacts, settings: Settings
) -> list[DoneClip]:
    """Return the clips that count, with whom they show, after their consent was asked for.

    Raises:
        RefusedError: If there is none, or a subject's photos must not be looked at.
    """
    from lynx_engine.comparison.measuring import DoneClip
    from lynx_engine.errors import Problem, RefusedError
    from lynx_engine.planning import consent_problems
    from lynx_engine.provenance.store import read_log
    from lynx_engine.survey import CLIPS_FOLDER

    outcome = "nothing was compared"
    if not plan.done:
        text = f"no row of {plan.campaign} has a clip; `lynx-engine render` makes them"
        raise RefusedError([Problem(manifest.path, text)], outcome=outcome)
    # A variant without identity may name a subject, too: it shows how alike strangers are.
    subjects = {name: manifest.subjects.get(name) for name in {job.subject for job in plan.done}}
    problems = [
        problem
        for subject in subjects.values()
        if subject is not None
        for problem in (
            *consent_problems(subject, facts),
            *facts.photo_problems.get(subject.name, ()),
        )
    ]
    if problems:
        raise RefusedError(problems, outcome=outcome)
    log = read_log(plan.campaign, settings=settings)
    digests = dict(zip(log["clip"], log["clip_digest"], strict=True))
    folder: Path = settings.campaign_dir(plan.campaign) / CLIPS_FOLDER
    names = {job.job_id: facts.by_job[job.job_id].clip for job in plan.done}
    return [
        DoneClip(job, folder / name, str(digests[name]), subjects[job.subject])
        for job in plan.done
        for name in [names[job.job_id]]
    ]


def _variants_of(manifest: Manifest) -> list[str]:
    """Return the variants in the author's order."""
    default = manifest.defaults.variant
    return list(dict.fromkeys(row.settings.variant or default or "" for row in manifest.rows))


def _show(campaign: str, found: Comparison) -> None:
    from lynx_engine.cli.console import note, say, show_table

    heads = [column.title for column in found.columns]
    rows = [
        cells
        for line in found.lines
        for cells in _rows_of(
            (line.variant, f"{line.subjects} x {line.prompts}"), found.columns, line.estimates
        )
    ]
    show_table(campaign, ("variant", "subj x prm", *heads), rows)
    rows = [
        cells
        for one in found.differences
        for cells in _rows_of(
            (f"{one.variant} less {one.other}",), found.columns, one.estimates, sign=True
        )
    ]
    if rows:
        show_table("paired differences", ("", *heads), rows)
    for column in found.columns:
        say(f"{column.title}: {column.footnote}")
    if any(e is not None and e.low is not None for x in found.lines for e in x.estimates.values()):
        say("Below each mean: 95 % interval over pairs of subject and prompt, by bootstrap.")
    for remark in found.remarks:
        note(remark)


def _rows_of(
    names: tuple[str, ...],
    columns: tuple[Column, ...],
    estimates: Mapping[str, Estimate | None],
    *,
    sign: bool = False,
) -> list[tuple[str, ...]]:
    """Return a row of means and, if there are any, one of their intervals."""
    from lynx_engine.report.comparison_page import write_interval, write_number

    found = [(estimates[column.name], column.digits) for column in columns]
    means = ["-" if e is None else write_number(e.mean, d, sign=sign) for e, d in found]
    intervals = ["" if e is None else write_interval(e, d, sign=sign) for e, d in found]
    rows = [(*names, *means)]
    return [*rows, (*("" for _ in names), *intervals)] if any(intervals) else rows
