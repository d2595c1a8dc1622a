"""A scheduled run's turn: one renders at a time, and of several due ticks only the newest.

Not Prefect's deployment concurrency limit: it counts Prefect runs only, so a `lynx-engine render`
by hand would not be waited for; CANCEL_NEW drops the tick that should follow a long run, ENQUEUE
renders every one of them; and a killed run keeps its slot until a lease ends. The campaign's lock
is freed by the system at once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.context import FlowRunContext
from prefect.states import Cancelled

from lynx_engine.errors import LockedError
from lynx_engine.lock import CampaignLock, lock_campaign
from lynx_engine.manifest.read import read_manifest
from lynx_engine.settings import load_settings

logger = logging.getLogger(__name__)

POLL_S = 1.0
COALESCED = "Coalesced"

# A run that was cancelled or crashed did not render; it stands in for no other.
_GONE = [StateType.CANCELLED, StateType.CANCELLING, StateType.CRASHED]


@dataclass(frozen=True, slots=True)
class Coalesced:
    """A tick that renders nothing, because a later one does.

    Attributes:
        into: When the later one was due.
    """

    into: datetime

    @property
    def state(self) -> State[None]:
        """How Prefect shows it."""
        tick = self.into.astimezone(UTC)
        return Cancelled(name=COALESCED, message=f"coalesced into the tick of {tick:%F %T} UTC")


def superseded_by() -> datetime | None:
    """Return when the newest later tick of this run's deployment was due, if one is by now.

    None also where no deployment's run is going on.
    """
    context = FlowRunContext.get()
    run = None if context is None else context.flow_run
    if run is None or run.deployment_id is None or run.expected_start_time is None:
        return None
    due = FlowRunFilterExpectedStartTime.model_validate(
        {"after_": run.expected_start_time, "before_": datetime.now(UTC)}
    )
    alive = FlowRunFilterState(type=FlowRunFilterStateType(not_any_=_GONE))
    with get_client(sync_client=True) as client:
        newest = client.read_flow_runs(
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[run.deployment_id])),
            flow_run_filter=FlowRunFilter(expected_start_time=due, state=alive),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
            limit=1,
        )
    for other in newest:
        if other.expected_start_time and other.expected_start_time > run.expected_start_time:
            return datetime.fromtimestamp(other.expected_start_time.timestamp(), UTC)
    return None


@contextmanager
def wait_for_lock(folder: Path, *, poll_s: float = POLL_S) -> Generator[CampaignLock | Coalesced]:
    """Hold a campaign's folder until the block ends, waiting for whoever holds it now.

    Yields:
        The lock; or which later tick renders in this one's place, with nothing held.

    Args:
        folder: The campaign's.
        poll_s: How often to look.

    Raises:
        PausedError: If the place cannot be written.
    """
    waiting = False
    with ExitStack() as held:
        while (later := superseded_by()) is None:
            try:
                lock = held.enter_context(lock_campaign(folder))
            except LockedError as error:
                if not waiting:
                    logger.info("waiting: %s", error)
                waiting = True
                time.sleep(poll_s)
            else:
                yield lock
                return
        yield Coalesced(later)


def campaign_folder(manifest: Path) -> Path:
    """Return the folder of a manifest's campaign, to be locked before anything is planned.

    A plan that was made while another run still rendered would render its rows again.

    Raises:
        RefusedError: If the manifest cannot be read, or the settings are wrong.
    """
    settings = load_settings(manifest)
    return settings.campaign_dir(read_manifest(manifest, lenient=True).campaign)
