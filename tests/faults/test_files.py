"""Damage to any file the engine keeps is named, or harmless; nothing is ever silently wrong.

Each kind of file has a `look`: what a person gets from it. Damage is *named* when looking raises a
letter with the file's path, *told* when looking says what became of it, and *harmless* when looking
shows the very same as before. All else is wrong.
"""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import numpy as np
import pytest

from flows.schedules.book import new_schedule, put_schedule, read_schedules, schedules_file
from lynx_engine.cli import show
from lynx_engine.digest import digest_file
from lynx_engine.errors import ErrorCode, ExitCode, LynxError, RowError
from lynx_engine.history import describe_changes
from lynx_engine.live import LIVE_FILE, Live, RowInFlight, is_running, read_live
from lynx_engine.lock import LOCK_FILE, lock_campaign
from lynx_engine.manifest.read import read_manifest
from lynx_engine.models.checkpoint import ensure_weights
from lynx_engine.planning import plan_renders
from lynx_engine.preflight import Preflight, face_keys
from lynx_engine.provenance import files
from lynx_engine.provenance.store import read_parts
from lynx_engine.publisher import Publisher
from lynx_engine.settings import Settings
from lynx_engine.survey import gather_facts
from lynx_engine.variants import get_variant
from lynx_engine.weights.fingerprint import weights_fingerprint
from lynx_engine.weights.lock import LOCK_NAME, write_lock
from tests.faults.disk import CAMPAIGN, HonestPool, run_trial
from tests.faults.harness import FULL, describe, size
from tests.support.jobs import astronaut
from tests.support.workspaces import Workspace

Figure = Callable[[str], None]

SPEC = replace(
    get_variant("tiny"), builder="tests.faults.test_files:make_small_weights", recipe="small-1"
)
DOWNLOADED = get_variant("wan")
LAYOUT = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/tokenizer.json",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
)


def make_small_weights(folder: Path) -> None:
    """Make a folder as `build_tiny_weights` does, of a few hundred bytes."""
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(bytes(range(256)))
    (folder / "config.json").write_text('{"layers": 4}')
    write_lock(folder)


@dataclass(frozen=True)
class Studio:
    """A workspace with one file of every kind at least."""

    folder: Path

    @property
    def settings(self) -> Settings:
        return Settings(
            workspace=self.folder, cache=self.folder / "cache", models=self.folder / "models"
        )

    @property
    def campaign(self) -> Path:
        return self.folder / "outputs" / CAMPAIGN

    @property
    def manifest(self) -> Path:
        return self.folder / "trial.yaml"

    def write(self, *, frames: int, seeds: int) -> None:
        """Write a manifest of `seeds` plain rows, and one of other `frames`."""
        rows = [f"  - {{subject: host, text: A walk., seed: {n}}}" for n in range(seeds)]
        self.manifest.write_text(
            "\n".join(
                [
                    f"campaign: {CAMPAIGN}",
                    f"subjects: {{host: {{image: {astronaut()}, consent: {{basis: mine}}}}}}",
                    "defaults: {variant: tiny}",
                    "rows:",
                    *rows,
                    f"  - {{subject: host, text: A dance., seed: 99, frames: {frames}}}",
                ]
            )
        )

    def run(self) -> HonestPool:
        read = read_manifest(self.manifest)
        plan = plan_renders(read, gather_facts(read, self.settings))
        faces = {face_keys(p.job)[0]: np.zeros((5, 2), np.float32) for p in plan.to_run}
        pool = HonestPool()
        summary = run_trial(self.settings, pool, plan, faces=Preflight(faces, {}))
        assert summary.exit_code == ExitCode.OK
        return pool

    def plan(self) -> object:
        """Return what would run and why, and what is done."""
        read = read_manifest(self.manifest)
        plan = plan_renders(read, gather_facts(read, self.settings))
        to_run = [(p.job.job_id, p.reason, p.why, p.attempt) for p in plan.to_run]
        return to_run, [job.job_id for job in plan.done], plan.held

    def history(self) -> object:
        """Return the plan and every record."""
        return self.plan(), read_parts(self.campaign / "provenance").rows()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    studio = Studio(tmp_path_factory.mktemp("files") / "studio")
    studio.folder.mkdir()
    (studio.folder / "lynx.toml").touch()
    studio.write(frames=9, seeds=2)
    studio.run()  # folded at its end
    studio.write(frames=9, seeds=5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Publisher, "fold", lambda _: None)
        studio.run()
    studio.write(frames=13, seeds=5)  # planning says what changed, by the key of the photo too
    put_schedule(
        new_schedule(CAMPAIGN, studio.manifest, studio.settings, timezone="UTC", every="6h"),
        studio.settings,
    )
    now = datetime(2026, 11, 22, tzinfo=UTC)
    row = RowInFlight("clip.mp4", "cpu", "denoise", 1, 4, now)
    live = Live(1, "host", now, 5, 1, 0, (row,), 12.5, stopping=False)
    told = json.dumps(asdict(live), default=datetime.isoformat)
    (studio.campaign / LIVE_FILE).write_text(told)
    assert read_live(studio.campaign) == live
    ensure_weights(SPEC, models_dir=studio.settings.models_dir, cache_dir=studio.settings.cache)
    for name in LAYOUT:
        path = studio.settings.models_dir / DOWNLOADED.base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() * 20)
    write_lock(studio.settings.models_dir.root)
    return studio


@pytest.fixture
def studio(built: Studio, tmp_path: Path) -> Studio:
    return Studio(Path(shutil.copytree(built.folder, tmp_path / "studio", symlinks=True)))


def look_at_lock(studio: Studio) -> object:
    """A run may begin, and nobody is thought to render."""
    running = is_running(studio.campaign)
    with lock_campaign(studio.campaign):
        return running, studio.plan()


def look_at_live(studio: Studio) -> object:
    """It is a view: whatever it says or does not say, nothing rests on it."""
    read_live(studio.campaign)
    return studio.plan()


def look_at_weights(studio: Studio) -> object:
    settings = studio.settings
    folder = ensure_weights(SPEC, models_dir=settings.models_dir, cache_dir=settings.cache)
    names = ("weights.safetensors", "config.json")
    return [digest_file(folder / name) for name in names]


def look_at_fingerprint(studio: Studio) -> object:
    return weights_fingerprint(DOWNLOADED, studio.settings.models_dir)


def look_with_show(studio: Studio) -> object:
    """Show a clip; its record, and what `show` remarks on it."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        show.command([str(clip_of(studio))])
    return out.getvalue(), err.getvalue()


def clip_of(studio: Studio) -> Path:
    return next((studio.campaign / "clips").glob("*-s0-*"))


def first(studio: Studio, pattern: str) -> Path:
    return sorted((studio.campaign / "provenance").glob(pattern))[0]


def is_missing_clip(seen: object) -> bool:
    return "clip missing" in str(seen)


def is_other_content(seen: object) -> bool:
    return "its content is not what was recorded" in str(seen)


def is_other_fingerprint(seen: object) -> bool:
    """Every row of the variant would run again, and the plan says why."""
    words = describe_changes({"weights_fingerprint": "x"}, {"weights_fingerprint": str(seen)})
    return "weights changed" in words


def never(_: object) -> bool:
    return False


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        path: The file.
        look: What a person gets from it.
        told: Whether what is seen after damage says so.
        harmless: How many of the flips of a bit may change nothing at all, 0 to 1.
    """

    path: Callable[[Studio], Path]
    look: Callable[[Studio], object]
    told: Callable[[object], bool] = never
    harmless: float = 0.0


KINDS = {
    "part": Kind(lambda s: first(s, "part-*"), Studio.history),
    "folded": Kind(lambda s: first(s, "log-*"), Studio.history),
    # The last line's end may become that of a torn line: its file is read all the same.
    "index": Kind(lambda s: first(s, "index"), Studio.history, harmless=0.05),
    "key": Kind(lambda s: s.folder / ".lynx" / "workspace.key", Studio.plan),
    "lock": Kind(lambda s: s.campaign / LOCK_FILE, look_at_lock, harmless=1),
    "live": Kind(lambda s: s.campaign / LIVE_FILE, look_at_live, harmless=1),
    "schedules": Kind(lambda s: schedules_file(s.settings), lambda s: read_schedules(s.settings)),
    "clip": Kind(clip_of, look_with_show, told=is_other_content),
    "made weights": Kind(lambda s: s.folder / "cache/small-1/weights.safetensors", look_at_weights),
    # A letter of a digest may become a capital.
    "made lock": Kind(
        lambda s: s.folder / "cache/small-1" / LOCK_NAME, look_at_weights, harmless=0.1
    ),
    "models lock": Kind(
        lambda s: s.folder / "models" / LOCK_NAME,
        look_at_fingerprint,
        told=is_other_fingerprint,
        harmless=0.1,
    ),
}


def judge(studio: Studio, kind: Kind, before: object) -> str:
    """Say in one word what looking gives now."""
    path = kind.path(studio)
    try:
        now = kind.look(studio)
    except LynxError as error:
        # A file that is missing stands in the letter for the index that lists it, a folder of
        # weights for its file.
        return "named" if str(path.parent) in str(error) else "wrong"
    if now == before:
        return "harmless"
    return "told" if kind.told(now) else "wrong"


def flipped(data: bytes, count: int, dice: random.Random) -> Iterator[bytes]:
    for _ in range(count):
        bit = dice.randrange(len(data) * 8)
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", KINDS)
def test_every_flipped_bit_is_named_or_told_or_harmless(
    studio: Studio, figure: Figure, name: str
) -> None:
    kind = KINDS[name]
    path, before = kind.path(studio), kind.look(studio)
    data = path.read_bytes()
    flips = size(quick=200, full=2000)
    seen: Counter[str] = Counter()
    for changed in flipped(data, flips, random.Random(name)):
        path.write_bytes(changed)
        seen[judge(studio, kind, before)] += 1
    path.write_bytes(data)
    words = {word: seen[word] for word in ("named", "told", "harmless", "wrong")}
    figure(describe(f"flip-{name.replace(' ', '-')}", flips=flips, **words))
    assert seen["wrong"] == 0
    assert seen["harmless"] <= flips * kind.harmless
    assert kind.look(studio) == before


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", KINDS)
def test_file_that_was_cut_at_any_length_is_named_or_told_or_harmless(
    studio: Studio, figure: Figure, name: str
) -> None:
    kind = KINDS[name]
    if name == "clip":
        kind = replace(kind, look=Studio.plan, told=is_missing_clip)
    path, before = kind.path(studio), kind.look(studio)
    data = path.read_bytes()
    lengths = range(len(data)) if FULL else sorted({*range(0, len(data), len(data) // 24 + 1)})
    seen: Counter[str] = Counter()
    for length in lengths:
        path.write_bytes(data[:length])
        seen[judge(studio, kind, before)] += 1
    path.write_bytes(data)
    words = {word: seen[word] for word in ("named", "told", "harmless", "wrong")}
    figure(describe(f"cut-{name.replace(' ', '-')}", cuts=len(lengths), **words))
    assert seen["wrong"] == 0
    if name not in {"index", "lock", "live"}:
        # A log whose index is short still reads every file that is there. A key that lost its
        # digest, and nothing else, is the key as it was before it had one.
        assert seen["harmless"] <= (name == "key")
    assert kind.look(studio) == before


WITHOUT = {
    "part": "named",
    "folded": "named",
    "index": "harmless",
    "lock": "harmless",
    "live": "harmless",
    "clip": "told",
    "made weights": "named",
    "made lock": "named",
    "models lock": "told",
}


@pytest.mark.parametrize("name", WITHOUT)
def test_file_that_was_deleted_is_named_or_told_or_harmless(studio: Studio, name: str) -> None:
    kind = KINDS[name]
    if name == "clip":
        kind = replace(kind, look=Studio.plan, told=is_missing_clip)
    path, before = kind.path(studio), kind.look(studio)
    path.unlink()
    fixed = replace(kind, path=lambda _: path)
    assert judge(studio, fixed, before) == WITHOUT[name]


def test_deleted_key_is_made_anew_and_changes_no_decision(studio: Studio) -> None:
    def decisions() -> object:
        to_run, done, held = studio.plan()  # type: ignore[misc]
        return [(job_id, reason) for job_id, reason, _, _ in to_run], done, held

    before = decisions()
    path = KINDS["key"].path(studio)
    old = path.read_bytes()
    path.unlink()
    assert decisions() == before
    studio.run()
    assert len(path.read_bytes()) == len(old)
    assert path.read_bytes() != old


@pytest.mark.parametrize("name", [name for name in KINDS if name not in {"lock", "live", "clip"}])
@pytest.mark.parametrize("other", ["part", "index", "live", "models lock"])
def test_file_with_the_content_of_another_is_named(studio: Studio, name: str, other: str) -> None:
    kind = KINDS[name]
    path, before = kind.path(studio), kind.look(studio)
    content = KINDS[other].path(studio).read_bytes()
    if name == other:
        content = content[::-1]
    path.write_bytes(content)
    # To the index, a text without a line's end is a line that was being written.
    is_torn = name == "index" and b"\n" not in content
    assert judge(studio, kind, before) == ("harmless" if is_torn else "named")


def test_clips_that_were_swapped_are_shown_by_what_they_hold_and_made_anew(studio: Studio) -> None:
    one, two = clip_of(studio), next((studio.campaign / "clips").glob("*-s99-*"))
    first_bytes, second_bytes = one.read_bytes(), two.read_bytes()
    assert len(first_bytes) != len(second_bytes)
    one.write_bytes(second_bytes)
    two.write_bytes(first_bytes)
    assert is_missing_clip(studio.plan())
    assert two.name in str(look_with_show(studio)), "the record is that of the content"
    studio.run()
    assert one.read_bytes() == first_bytes
    assert one.name in str(look_with_show(studio))


def test_held_lock_refuses_whatever_its_file_says(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lynx_engine.lock._MOMENT_S", 0.01)
    path = studio.campaign / LOCK_FILE
    dice = random.Random("held")
    with lock_campaign(studio.campaign):
        data = path.read_bytes()
        for changed in [b"", b"\xff\xfe\x00", *flipped(data, size(quick=4, full=40), dice)]:
            path.write_bytes(changed)
            with (
                pytest.raises(LynxError, match="is being rendered by") as caught,
                lock_campaign(studio.campaign),
            ):
                pytest.fail("two at a time")
            assert caught.value.exit_code == ExitCode.LOCKED


def test_made_weights_are_whole_again_once_the_advice_was_followed(studio: Studio) -> None:
    before = look_at_weights(studio)
    path = KINDS["made weights"].path(studio)
    path.write_bytes(b"")
    with pytest.raises(RowError, match="Delete the folder: it is made anew") as caught:
        look_at_weights(studio)
    assert caught.value.code is ErrorCode.WEIGHTS
    shutil.rmtree(path.parent)
    assert look_at_weights(studio) == before


def test_mutant_without_the_digests_is_silently_wrong(
    studio: Studio, figure: Figure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "is_whole", lambda *_: True)
    monkeypatch.setattr("lynx_engine.provenance.environment._with_digest", lambda key: key)
    monkeypatch.setattr("lynx_engine.provenance.environment.FILE_BYTES", 32)
    key = KINDS["key"].path(studio)
    key.write_bytes(key.read_bytes()[:32])
    wrong: Counter[str] = Counter()
    for name in ("part", "key"):
        kind = KINDS[name]
        path, before = kind.path(studio), kind.look(studio)
        data = path.read_bytes()
        # Parquet notices most flips by itself: one that it does not notice is enough.
        for changed in flipped(data, 60 if name == "key" else 600, random.Random(name)):
            path.write_bytes(changed)
            wrong[name] += judge(studio, kind, before) == "wrong"
            if name == "part" and wrong[name]:
                break
        path.write_bytes(data)
    assert wrong["part"] == 1
    assert wrong["key"] == 60
    figure("MUTANT digests red")


@dataclass(frozen=True)
class Damage:
    """What happens to a file, and what the command says.

    Attributes:
        path: The file, from the campaign's folder.
        spoil: What it holds then, of what it held.
        code: What every command that needs it returns.
        cure: Follows the advice.
    """

    path: str
    spoil: Callable[[bytes], bytes]
    code: ExitCode
    cure: Callable[[Path], None] = lambda _: None


def move_out_with_index(path: Path) -> None:
    path.rename(path.parents[3] / path.name)
    (path.parent / "index").unlink(missing_ok=True)


def flip_in_the_middle(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


DAMAGES = {
    "flipped log": Damage(
        "provenance/log-*", flip_in_the_middle, ExitCode.DAMAGED, move_out_with_index
    ),
    "cut log": Damage(
        "provenance/log-*", lambda data: data[:-9], ExitCode.DAMAGED, move_out_with_index
    ),
    "foreign index": Damage(
        "provenance/index", lambda _: b"\xff\n\x1b[31m\n", ExitCode.DAMAGED, Path.unlink
    ),
    "emptied key": Damage(
        "../../.lynx/workspace.key", lambda _: b"", ExitCode.DAMAGED, Path.unlink
    ),
    "cut clip": Damage("clips/*-s1-*", lambda data: data[:-9], ExitCode.OK),
    "foreign lock": Damage(".lock", lambda _: b"\xff\x1b[31m process 1 on x", ExitCode.OK),
    "foreign live": Damage(".live.json", lambda _: b"[" * 100_000, ExitCode.OK),
}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = Workspace(tmp_path_factory.mktemp("rendered") / "studio")
    workspace.write("lynx.toml", "")
    lines = ["campaign: trial", "defaults: {variant: sleeper}", "rows:"]
    workspace.write("trial.yaml", [*lines, *(f"  - {{text: t, seed: {n}}}" for n in range(3))])
    done = workspace.run("render", "trial.yaml", "--in-process", "--quiet")
    assert done.returncode == 0, done.stderr
    (workspace.folder / "outputs/trial/.live.json").touch()
    return workspace.folder


@pytest.mark.parametrize("name", DAMAGES if FULL else list(DAMAGES)[::2])
def test_command_names_the_damage_and_runs_clean_once_its_advice_was_followed(
    rendered: Path, tmp_path: Path, name: str
) -> None:
    damage = DAMAGES[name]
    workspace = Workspace(Path(shutil.copytree(rendered, tmp_path / "studio")))
    (path,) = (workspace.folder / "outputs/trial").glob(damage.path)
    path.write_bytes(damage.spoil(path.read_bytes()))
    clip = workspace.clips("trial")[1]
    commands = [
        ("plan", "trial.yaml"),
        ("status", "trial.yaml"),
        ("log", "trial"),
        ("show", clip),
        ("render", "trial.yaml", "--in-process"),
    ]
    if not FULL:
        commands = [commands[list(DAMAGES).index(name) % 4], commands[4]]
    for command in commands:
        done = workspace.run(*command)
        said = done.stdout + done.stderr
        assert "Traceback" not in said
        assert "A bug in" not in said
        if command[0] in {"plan", "render"}:
            assert done.returncode == damage.code, said
            assert damage.code == ExitCode.OK or path.resolve().name in said
        assert done.returncode in {ExitCode.OK, ExitCode.REFUSED, damage.code}, said
    damage.cure(path)
    again = workspace.run("render", "trial.yaml", "--in-process", "--quiet")
    assert (again.returncode, again.stderr) == (0, "")
    plan = workspace.json("plan", "trial.yaml")
    assert (len(plan["to_run"]), len(plan["done"]), plan["problems"]) == (0, 3, [])
