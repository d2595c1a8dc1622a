"""Closes what a killed run left open in Prefect's view: nobody else would ever do it."""

from __future__ import annotations

import logging

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.states import Crashed

logger = logging.getLogger(__name__)

_OPEN = [StateType.RUNNING, StateType.PENDING]
_TOLD = "its process died; the next run took up what was left"


def close_dead_runs() -> None:
    """Mark every open flow run and task run as crashed.

    Only for a campaign's own database, under its lock: whatever is open there is dead.
    """
    flows = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_OPEN)))
    tasks = TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=_OPEN)))
    try:
        with get_client(sync_client=True) as client:
            for run in client.read_task_runs(task_run_filter=tasks):
                client.set_task_run_state(run.id, Crashed(message=_TOLD), force=True)
            for run in client.read_flow_runs(flow_run_filter=flows):
                client.set_flow_run_state(run.id, Crashed(message=_TOLD), force=True)
    except Exception as error:  # noqa: BLE001  # a view must not end the run
        logger.warning("Prefect still shows a dead run as open: %s", error)
