"""What Prefect's page shows of a campaign beside its task runs: a progress bar, a table of results.

A view, never the truth: whatever Prefect refuses is passed over.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import copy_context
from typing import TypeVar
from uuid import UUID

from prefect.artifacts import (
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from lynx_engine.campaign import Campaign
from lynx_engine.jobs import PlannedJob
from lynx_engine.results import Failed, Likeness, Rendered, RenderResult

logger = logging.getLogger(__name__)

T = TypeVar("T")

REFRESH_S = 5.0
MOST_ROWS = 1000
_PERCENT = 100.0


@contextmanager
def showing(campaign: Campaign) -> Generator[None]:
    """Keep a progress artifact up to date during the block; write the table at its end."""
    key = artifact_key(campaign.plan.campaign)
    shown = _try(
        lambda: create_progress_artifact(
            0.0, key=f"{key}-progress", description=f"Rows of {campaign.plan.campaign} that ended."
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
                description=f"How the rows of {campaign.plan.campaign} ended.",
            )
        )


def artifact_key(campaign: str) -> str:
    """Return a campaign's name as Prefect wants keys: lowercase letters, digits and dashes."""
    return re.sub("[^a-z0-9]+", "-", campaign.lower()).strip("-")


def result_rows(campaign: Campaign) -> list[dict[str, str]]:
    """Return the table of results: failures first, then clips, `MOST_ROWS` at most."""
    ended = campaign.outcomes.results()
    ended.sort(key=lambda row: isinstance(row[1], Rendered))
    return [_row(planned, result) for planned, result in ended[:MOST_ROWS]]


def _row(planned: PlannedJob, result: RenderResult) -> dict[str, str]:
    job = planned.job
    row = {
        "clip": job.clip_name,
        "subject": job.subject,
        "prompt": job.prompt_name,
        "seed": str(job.seed),
        "variant": job.variant,
    }
    match result:
        case Rendered(_, _, worker, findings):
            return {
                **row,
                "result": "rendered",
                "device": worker.device,
                "s": f"{sum(worker.stages_s.values()):.1f}",
                "likeness": _likeness(findings.likeness),
            }
        case Failed(code, message):
            return {**row, "result": f"failed: {code}", "device": "", "s": "", "why": message}
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
