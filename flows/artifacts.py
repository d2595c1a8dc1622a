"""What Prefect's page shows of a campaign beside its task runs: progress, results, the report.

A view, never the truth: whatever Prefect refuses is passed over. Its page reads every cell and
description as Markdown, so what others wrote is escaped.
"""

from __future__ import annotations

import logging
import re
import string
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path
from typing import TypeVar
from uuid import UUID

from prefect.artifacts import (
    create_link_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from flows.reports import report_path
from lynx_engine.campaign import Campaign
from lynx_engine.gate import likeness_in_words
from lynx_engine.jobs import PlannedJob
from lynx_engine.report.texts import visible
from lynx_engine.results import Failed, Likeness, Rendered, RenderResult, Withheld

logger = logging.getLogger(__name__)

T = TypeVar("T")

REFRESH_S = 5.0
MOST_ROWS = 1000
_PERCENT = 100.0
_ID_CHARACTERS = 12
# CommonMark lets a backslash stand before any of these, and then they are plain letters.
_ESCAPES = str.maketrans({sign: f"\\{sign}" for sign in string.punctuation})


@contextmanager
def showing(campaign: Campaign) -> Generator[None]:
    """Keep a progress artifact up to date during the block; write the table at its end."""
    key = artifact_key(campaign.plan.campaign)
    shown = _try(
        lambda: create_progress_artifact(
            0.0,
            key=f"{key}-progress",
            description=f"Rows of {as_text(campaign.plan.campaign)} that ended.",
        )
    )
    over = threading.Event()

    def refresh() -> None:
        while not over.wait(REFRESH_S):
            _update(shown, campaign)

    # Prefect's settings stand in the context; a thread without it would start a server of its own.
    thread = threading.Thread(target=copy_context().run, args=(refresh,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        _update(shown, campaign)
        _try(
            lambda: create_table_artifact(
                result_rows(campaign),
                key=f"{key}-results",
                description=f"How the rows of {as_text(campaign.plan.campaign)} ended. "
                "The last column finds a row's record in the log.",
            )
        )
        _show_report(campaign, key)


def _show_report(campaign: Campaign, key: str) -> None:
    """Link to the page that is written once the run has ended."""
    if not campaign.settings.report:
        return
    name = campaign.plan.campaign
    page = report_path(name, campaign.settings).absolute()
    _try(
        lambda: create_link_artifact(
            page.as_uri(),
            link_text=f"report of {as_text(name)}",
            key=f"{key}-report",
            # Seen in Chromium: a page from a server may show a link to a file, but not follow it.
            description=f"{as_text(str(page))}: copy the link's address into a new tab, or run "
            f"`lynx-engine report {name} --open`.",
        )
    )


def as_text(text: str) -> str:
    """Return `text` as Markdown that shows just its letters: no markup, no link, no line break."""
    return visible(text).translate(_ESCAPES)


def artifact_key(campaign: str) -> str:
    """Return a campaign's name as Prefect wants keys: lowercase letters, digits and dashes."""
    return re.sub("[^a-z0-9]+", "-", campaign.lower()).strip("-")


def result_rows(campaign: Campaign) -> list[dict[str, str]]:
    """Return the table of results: failures first, then clips, `MOST_ROWS` at most."""
    ended = campaign.outcomes.results()
    ended.sort(key=lambda row: isinstance(row[1], Rendered))
    clips = campaign.summary().clips.absolute()
    return [_row(planned, result, clips) for planned, result in ended[:MOST_ROWS]]


def _row(planned: PlannedJob, result: RenderResult, clips: Path) -> dict[str, str]:
    job = planned.job
    name = as_text(job.clip_name)
    # A row under the gate keeps the clip of its best try, whichever run published it.
    is_there = isinstance(result, Rendered) and (clips / job.clip_name).is_file()
    return {
        "clip": f"[{name}]({(clips / job.clip_name).as_uri()})" if is_there else name,
        **_told(planned, result),
        "log row": f"`lynx-engine show {job.job_id[:_ID_CHARACTERS]}`",
    }


def _told(planned: PlannedJob, result: RenderResult) -> dict[str, str]:
    job = planned.job
    row = {
        "subject": as_text(job.subject),
        "prompt": as_text(job.prompt_name),
        "seed": str(job.seed),
        "variant": job.variant,
    }
    match result:
        case Rendered(_, _, worker, findings, low_identity):
            told = {
                **row,
                "result": "low identity" if low_identity else "rendered",
                "device": worker.device,
                "s": f"{sum(worker.stages_s.values()):.1f}",
                "likeness": _likeness(findings.likeness),
            }
            if not low_identity:
                return told
            # The score of the clip that is published, not that of the latest seed.
            why = likeness_in_words(job.gate, planned.best_score, planned.first_try)
            return {**told, "likeness": "", "why": as_text(why)}
        case Failed(code, message):
            return {
                **row,
                "result": f"failed: {code}",
                "device": "",
                "s": "",
                "why": as_text(message),
            }
        case Withheld(message):
            return {**row, "result": "withheld", "device": "", "s": "", "why": as_text(message)}
        case _:
            return {**row, "result": "interrupted", "device": "", "s": ""}


def _likeness(likeness: Likeness | None) -> str:
    if likeness is None:
        return ""
    return "no face" if likeness.mean is None else f"{likeness.mean:.2f}"


def _update(shown: object, campaign: Campaign) -> None:
    if isinstance(shown, UUID):
        rows = max(len(campaign.plan.to_run), 1)
        part = _PERCENT * len(campaign.outcomes.results()) / rows
        _try(lambda: update_progress_artifact(shown, part))


def _try(call: Callable[[], T]) -> T | None:
    try:
        return call()
    except Exception as error:  # noqa: BLE001  # a picture of the run must not end the run
        logger.warning("Prefect shows no artifact: %s", error)
        return None
