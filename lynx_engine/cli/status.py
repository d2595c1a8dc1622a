"""`lynx-engine status`: where each campaign stands, from its log, and what renders now."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lynx_engine.cli.options import AnyCampaignArgument, JsonOption

if TYPE_CHECKING:
    import polars as pl

    from lynx_engine.cli.likeness import LikenessSummary
    from lynx_engine.cli.running import Running
    from lynx_engine.jobs import PastResult
    from lynx_engine.settings import Settings

EXAMPLE = "Example: lynx-engine status quickstart --watch"


@dataclass(frozen=True, slots=True)
class Standing:
    """Where one campaign stands.

    Attributes:
        counts: Status as `retry` knows it -> requests whose latest attempt ended so.
        failures: The failed, withheld and quarantined ones.
        low_identity: Those whose published clip is under the identity gate.
        superseded: Requests left out because the manifest does not ask for them any more.
        likeness: How alike its clips are, by evaluator.
    """

    counts: dict[str, int]
    failures: list[dict[str, object]]
    low_identity: list[dict[str, object]]
    superseded: int
    likeness: list[LikenessSummary]


def command(
    campaign: AnyCampaignArgument = None,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Follow what renders, until nothing does; then say the rest."),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Say what renders now, count rows by outcome, tell likeness, and name the failures.

    A manifest counts the requests it makes now; a name counts all that were ever made.
    """
    from lynx_engine.cli.console import note, say_json
    from lynx_engine.cli.records import campaign_named, campaigns_of, read_logs, settings_for
    from lynx_engine.cli.running import as_json, find_running
    from lynx_engine.cli.running import watch as watch_running

    settings = settings_for(campaign)
    asked = [campaign_named(campaign, settings)] if campaign else None
    if watch:
        try:
            watch_running(asked, settings, quiet=json)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
    names = asked or campaigns_of(settings)
    running = find_running(names, settings)
    wanted = None if campaign is None else _requests_of(campaign, settings)
    if isinstance(wanted, str):
        note(wanted)
        wanted = None
    logs, damage = read_logs(names, settings)
    standings = {name: _standing(log, wanted) for name, log in logs.items()}
    if not json:
        _tell(standings, running, settings)
        if damage is not None:
            raise damage
        return
    say_json(
        {
            "campaigns": {name: standing.counts for name, standing in standings.items()},
            "failures": _listed({name: s.failures for name, s in standings.items()}),
            "low_identity": _listed({name: s.low_identity for name, s in standings.items()}),
            "likeness": {
                name: [asdict(one) for one in standing.likeness]
                for name, standing in standings.items()
            },
            "superseded": {name: standing.superseded for name, standing in standings.items()},
            "running": as_json(running),
            "damaged": [] if damage is None else [str(problem) for problem in damage.problems],
        }
    )
    if damage is not None:
        raise typer.Exit(damage.exit_code)


def _listed(rows: dict[str, list[dict[str, object]]]) -> list[dict[str, object]]:
    return [{"campaign": name, **row} for name, mine in rows.items() for row in mine]


def _tell(standings: dict[str, Standing], running: list[Running], settings: Settings) -> None:
    from lynx_engine.cli.console import say, show_table
    from lynx_engine.cli.running import describe_all

    if running:
        say(describe_all(running))
    if not standings:
        if not running:
            say(
                f"No campaign in {settings.outputs_dir} yet. "
                "`lynx-engine render MANIFEST` makes one."
            )
        return
    words = next(iter(standings.values())).counts
    rows = ((name, *standing.counts.values()) for name, standing in standings.items())
    show_table("", ("campaign", *words), rows)
    for name, standing in standings.items():
        for likeness in standing.likeness:
            say(f"{name}: {likeness}")
        for failure in standing.failures:
            kind = {"quarantined": f"quarantined: {failure['code']}", "withheld": "withheld"}
            why = kind.get(str(failure["status"]), failure["code"])
            say(f"{failure['where']}: {why}: {failure['message']}")
        for weak in standing.low_identity:
            say(f"{weak['where']}: low identity: {weak['clip']}: {weak['likeness']}")
        if standing.superseded:
            left = f"{standing.superseded} recorded request{'s' * (standing.superseded > 1)}"
            say(f"{name}: {left} that the manifest does not make now, not counted.")


def _requests_of(given: str, settings: Settings) -> frozenset[str] | str | None:
    """Return the requests that a manifest makes now.

    None if `given` is no manifest; a remark if it has problems, for then nobody can say which
    failures are of the past.
    """
    from lynx_engine.cli.records import MANIFEST_SUFFIXES
    from lynx_engine.errors import DamagedError, RefusedError
    from lynx_engine.manifest.read import read_manifest
    from lynx_engine.planning import plan_renders
    from lynx_engine.survey import gather_facts

    if Path(given).suffix not in MANIFEST_SUFFIXES:
        return None
    read = read_manifest(given, lenient=True)
    try:
        plan = plan_renders(read, gather_facts(read, settings))
    except RefusedError:
        return (
            f"{given} has problems (see `lynx-engine check`); every request ever made is counted."
        )
    except DamagedError:
        return None  # told with the logs
    return frozenset(
        job.job_id
        for job in (
            *(planned.job for planned in plan.to_run),
            *plan.done,
            *(held.job for held in plan.held),
        )
    )


def _standing(log: pl.DataFrame, wanted: frozenset[str] | None) -> Standing:
    from lynx_engine.cli.likeness import summarise_likeness
    from lynx_engine.history import QUARANTINED, status_word
    from lynx_engine.jobs import Status
    from lynx_engine.provenance.past import history_of

    where = dict(zip(log["job_id"], log["where"], strict=True))  # the latest one stays
    counts = dict.fromkeys((*(status.value for status in Status), QUARANTINED), 0)
    failures: list[dict[str, object]] = []
    weak: list[dict[str, object]] = []
    superseded = 0
    for job_id, past in history_of(log).by_job.items():
        if wanted is not None and job_id not in wanted:
            superseded += 1
            continue
        word = status_word(past)
        counts[word] += 1
        if word in {Status.FAILED.value, Status.WITHHELD.value, QUARANTINED}:
            told = {"status": word, "code": past.code, "message": past.message}
            failures.append({"where": where[job_id], "job_id": job_id, **told})
        if past.status is Status.LOW_IDENTITY:
            weak.append({"where": where[job_id], "job_id": job_id, **_likeness(past)})
    return Standing(counts, failures, weak, superseded, summarise_likeness(log, wanted))


def _likeness(past: PastResult) -> dict[str, object]:
    """Return how far a clip came; a score of null means that it shows no face."""
    from lynx_engine.gate import NO_FACE, likeness_in_words

    score = None if past.best_score == NO_FACE else past.best_score
    told = likeness_in_words(str(past.request["gate"]), past.best_score, past.tries)
    return {"clip": past.clip, "score": score, "tries": past.tries, "likeness": told}
