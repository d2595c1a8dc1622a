"""What Prefect is told of withheld and weak rows where many rows share a task, or none is to run.

The flow's functions are called as they are, without Prefect around them; folders, clips and
records are real.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from flows.render_campaign import render_campaign
from flows.run import prepare_run, render
from flows.tasks import render_shard
from lynx_engine.campaign import open_campaign
from lynx_engine.gate import IdentityGate
from lynx_engine.jobs import RenderJob
from lynx_engine.lock import lock_campaign
from lynx_engine.orders import RenderTask
from lynx_engine.outcomes import CampaignSummary
from lynx_engine.preflight import Preflight
from lynx_engine.results import WithheldError
from lynx_engine.settings import Settings, load_settings
from lynx_engine.variants import REGISTRY, get_variant
from tests.integration.test_campaign_gate import first_plan, scored
from tests.support.classifiers import HERE
from tests.support.jobs import make_job
from tests.support.pools import ScriptedPool, Watcher

MANIFEST = """\
campaign: trial
defaults: {variant: people, frames: 5}
rows:
- {text: "red=2", seed: 1}
- {text: stripes, seed: 2}
"""


@pytest.fixture
def people(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    monkeypatch.setitem(REGISTRY, "people", "tests.support.people")
    get_variant.cache_clear()
    yield
    get_variant.cache_clear()


def one_seed(seed: int) -> RenderJob:
    return make_job(seed=seed, gate=str(IdentityGate(0.55, 1, "best", "a script")))


def flagged(_: RenderTask) -> NoReturn:
    raise WithheldError("a script saw something")


def shard_of(folder: Path, pool: ScriptedPool, *jobs: RenderJob) -> tuple[Any, CampaignSummary]:
    """Render the jobs in one shard; return its state, and how the run ended."""
    settings = Settings(workspace=folder)
    with (
        lock_campaign(settings.campaign_dir("trial")) as lock,
        open_campaign(
            lock,
            first_plan(*jobs),
            pool,
            settings=settings,
            faces=Preflight({}, {}),
            observer=Watcher(),
        ) as campaign,
    ):
        return render_shard.fn(campaign, shard=1, shards=1), campaign.summary()


def test_shard_counts_withheld_and_weak_rows_by_their_own_words(tmp_path: Path) -> None:
    good, weak, bad = one_seed(1), one_seed(2), one_seed(3)
    pool = ScriptedPool({3: flagged}, likeness={**scored(good, 0.6), **scored(weak, 0.2)})
    state, summary = shard_of(tmp_path, pool, good, weak, bad)
    assert (summary.rendered, summary.low_identity, summary.withheld) == (1, 1, 1)
    assert state.is_failed()
    assert state.message == "1 rendered, 0 failed, 1 withheld, 1 low identity"


def test_shard_of_weak_rows_is_complete_as_the_tasks_of_such_rows_are(tmp_path: Path) -> None:
    pool = ScriptedPool(likeness=scored(one_seed(2), 0.2))
    state, _ = shard_of(tmp_path, pool, one_seed(2))
    assert (state.is_completed(), state.message) == (
        True,
        "0 rendered, 0 failed, 1 low identity",
    )


@pytest.mark.usefixtures("people")
def test_later_tick_of_a_schedule_still_tells_of_a_withheld_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lynx.toml").write_text(f'classifiers = ["{HERE}:load_red"]\n')
    Path("m.yaml").write_text(MANIFEST)
    run = prepare_run(Path("m.yaml"), devices="cpu", cluster="", skip_bad_rows=True)
    first = render(run.plan, settings=load_settings(), devices="cpu", in_process=True)
    assert (first.rendered, first.withheld, first.exit_code) == (1, 1, 1)
    state = render_campaign.fn("m.yaml", devices="cpu", skip_bad_rows=True)
    assert state.is_failed(), "the command exits 1, too"
    assert state.message == "nothing to do; 1 clip is done, 1 withheld"
    assert first.report is not None
    assert first.report.is_file()


def test_rows_that_a_schedule_leaves_out_are_named_in_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lynx.toml").touch()
    bad = MANIFEST.replace("people", "sleeper").replace("seed: 2", "seed: 2, frames: 6")
    Path("m.yaml").write_text(bad)
    run = prepare_run(Path("m.yaml"), devices="cpu", cluster="", skip_bad_rows=True)
    assert (len(run.plan.to_run), len(run.plan.problems)) == (1, 1)
    assert "m.yaml:5: " in caplog.text
