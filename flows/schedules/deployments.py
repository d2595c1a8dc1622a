"""Keeps Prefect's deployments equal to the workspace's schedules while a runner serves them.

Import it only where PREFECT_API_URL is set: prefect reads its settings when it is first imported.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    DeploymentFilterTags,
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.runner import Runner
from prefect.types.entrypoint import EntrypointType

from flows.render_campaign import render_campaign
from flows.schedules.book import Schedule, manifest_of, read_schedules
from flows.schedules.ticks import prefect_schedule
from flows.schedules.turns import Coalesced
from lynx_engine.digest import digest_bytes
from lynx_engine.settings import Settings

_PAGE = 200


class Deployments:
    """The deployments of one workspace's schedules.

    Attributes:
        served: Campaign -> its schedule, as Prefect knows it now.
    """

    def __init__(self, settings: Settings, client: PrefectClient, runner: Runner) -> None:
        """Know nothing yet; `refresh` reads the schedules."""
        self.served: dict[str, Schedule] = {}
        self._settings = settings
        self._client = client
        self._runner = runner
        self._ids: dict[UUID, str] = {}
        self._told_until = datetime.now(UTC)
        self._told: set[UUID] = set()
        self._looked = False
        # On a server that several workspaces share, each knows its own.
        place = str(settings.workspace.resolve()).encode("utf-8", "surrogateescape")
        self._mark = digest_bytes(place)[:8]

    async def refresh(self) -> tuple[list[str], list[str]]:
        """Make the deployments what the schedules say; return what began and what ended.

        Raises:
            DamagedError: If the file of schedules is damaged.
        """
        wanted = {schedule.campaign: schedule for schedule in read_schedules(self._settings)}
        new = [name for name, schedule in wanted.items() if self.served.get(name) != schedule]
        old = [name for name in self.served if name not in wanted]
        for name in new:
            await self._deploy(wanted[name])
        if new or old or not self._looked:
            self._looked = True
            await self._delete_others(wanted)
        self.served = wanted
        return new, old

    async def coalesce(self) -> None:
        """Of several runs of a campaign that are due and have not begun, leave the newest.

        The flow asks the same before it renders; this spares a process for each.
        """
        due = FlowRunFilterExpectedStartTime.model_validate({"before_": datetime.now(UTC)})
        idle = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED]))
        waiting = await self._runs(FlowRunFilter(expected_start_time=due, state=idle))
        newest: dict[UUID, datetime] = {}
        for run in waiting:  # the newest first
            if run.deployment_id is None or run.expected_start_time is None:
                continue
            kept = newest.setdefault(run.deployment_id, run.expected_start_time)
            if kept > run.expected_start_time:
                with suppress(ObjectNotFound):  # its schedule was changed just now
                    await self._client.set_flow_run_state(run.id, Coalesced(kept).state)

    async def ended(self) -> list[tuple[str, FlowRun]]:
        """Return the runs that ended since the last call, each with its campaign."""
        after = FlowRunFilterEndTime.model_validate({"after_": self._told_until})
        runs = await self._runs(FlowRunFilter(end_time=after))
        fresh = [run for run in runs if run.id not in self._told]
        self._told = {run.id for run in runs}
        ends = [run.end_time for run in runs if run.end_time is not None]
        self._told_until = max([self._told_until, *ends])
        named = [(self._ids[run.deployment_id], run) for run in fresh if run.deployment_id]
        return sorted(named, key=lambda pair: pair[1].end_time or self._told_until)

    async def _runs(self, wanted: FlowRunFilter) -> list[FlowRun]:
        if not self._ids:
            return []
        return await self._client.read_flow_runs(
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=list(self._ids))),
            flow_run_filter=wanted,
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
            limit=_PAGE,
        )

    async def _deploy(self, schedule: Schedule) -> None:
        kind = CronSchedule if schedule.cron else IntervalSchedule
        deployment = await render_campaign.ato_deployment(
            name=f"{schedule.campaign}-{self._mark}",
            schedules=[DeploymentScheduleCreate(schedule=kind(**prefect_schedule(schedule)))],
            parameters={
                "manifest": str(manifest_of(schedule, self._settings)),
                "devices": schedule.devices,
                "skip_bad_rows": schedule.skip_bad_rows,
            },
            description="Made by `lynx-engine schedule`; a change made here lasts until it serves.",
            tags=["lynx-engine", self._mark],
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        self._ids[await self._runner.aadd_deployment(deployment)] = schedule.campaign

    async def _delete_others(self, wanted: Iterable[str]) -> None:
        """Delete this workspace's deployments that no schedule asks for, also of earlier times."""
        names = {f"{campaign}-{self._mark}" for campaign in wanted}
        marked = DeploymentFilter(tags=DeploymentFilterTags(all_=["lynx-engine", self._mark]))
        for deployment in await self._client.read_deployments(deployment_filter=marked):
            if deployment.name not in names:
                with suppress(ObjectNotFound):  # somebody else did
                    await self._client.delete_deployment(deployment.id)
