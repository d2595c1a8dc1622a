"""The identity gate over the whole real path; only the renderer is a stand-in.

Frames with known faces are encoded, decoded, their faces found and embedded by dlib, and the row
takes another seed.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Generator
from math import floor
from pathlib import Path
from typing import Any

import pytest

from flows.run import render
from lynx_engine.cli.app import main
from lynx_engine.gate import reseed
from lynx_engine.identity import found
from lynx_engine.identity.evaluators import DlibEvaluator
from lynx_engine.manifest.read import read_manifest
from lynx_engine.planning import plan_renders
from lynx_engine.provenance.store import read_log
from lynx_engine.settings import Settings
from lynx_engine.survey import gather_facts
from tests.support.faces import FacePaster, faces_registered
from tests.support.jobs import astronaut

SECOND, THIRD = reseed(1, 2), reseed(1, 3)

# 0.4 is dlib's own threshold: distance 0.6, 99.38 % right on LFW by its documentation.
MANIFEST = """\
campaign: gated
subjects: {one: {image: one.png, synthetic: true}}
defaults: {variant: faces}
identity: {min_score: 0.4, attempts: ATTEMPTS, keep: best}
rows: [{subject: one, text: PROMPT, seed: 1}]
"""


@pytest.fixture(autouse=True)
def known_faces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    (tmp_path / "lynx.toml").touch()
    shutil.copyfile(astronaut(), tmp_path / "one.png")
    monkeypatch.chdir(tmp_path)
    with faces_registered():
        yield


def write(prompt: str, *, attempts: int = 3) -> None:
    text = MANIFEST.replace("PROMPT", prompt).replace("ATTEMPTS", str(attempts))
    Path("m.yaml").write_text(text, encoding="utf-8")


def settings() -> Settings:
    return Settings(workspace=Path.cwd(), evaluator="dlib")


def records() -> list[dict[str, Any]]:
    return read_log("gated", settings=settings()).to_dicts()


def test_a_wrong_face_is_rendered_again_until_the_right_one_is_published() -> None:
    write(f"{SECOND}=none {THIRD}=right wrong")
    read = read_manifest("m.yaml")
    plan = plan_renders(read, gather_facts(read, settings()))
    summary = render(plan, settings=settings(), devices="cpu", in_process=True)
    first, second, third = records()
    assert [r["rendered_seed"] for r in (first, second, third)] == [1, SECOND, THIRD]
    assert [r["status"] for r in (first, second, third)] == ["low_identity"] * 2 + ["rendered"]
    assert first["identity_mean"] < 0.4 <= third["identity_mean"]
    assert (second["identity_mean"], second["face_share"], second["clip"]) == (None, 0.0, "")
    assert first["clip"] == third["clip"]
    assert first["evaluator"] in first["gate"]
    assert (summary.rendered, summary.low_identity, summary.exit_code) == (1, 0, 0)


Said = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Generator[Said]:
    """Run a command in this process; return its exit code and what it said."""
    monkeypatch.setenv("LYNX_EVALUATOR", "dlib")
    monkeypatch.setenv("COLUMNS", "1000")

    def run_command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["lynx-engine", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        said = capsys.readouterr()
        return int(left.value.code or 0), said.out, said.err

    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield run_command
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_a_row_under_the_bar_is_told_of_by_every_command_until_a_retry_mends_it(
    command: Said,
) -> None:
    write(f"{SECOND}=wrong {THIRD}=right none", attempts=2)
    _, out, _ = command("plan", "m.yaml")
    gate = out.partition("identity gate: ")[2]
    assert gate.startswith("0.4, up to 2 seeds, best kept, scored by dlib ")
    assert "; up to 2 renderings for 1 row, times above are for one each" in gate

    code, out, err = command("render", "m.yaml", "--in-process")
    first, second = records()
    assert (first["identity_mean"], bool(first["clip"])) == (None, True)
    assert bool(second["clip"]), "somebody's face is better than none"
    clip, score = second["clip"], floor(second["identity_mean"] * 100) / 100
    likeness = f"{score:.2f} of 0.4 after 2 seeds"
    assert code == 1
    assert f"low identity {clip}: {likeness}" in err
    assert "gated: 0 rendered, 1 low identity. " in out
    assert "`lynx-engine retry m.yaml --status low_identity` tries further seeds." in out

    code, out, _ = command("render", "m.yaml")
    assert code == 1, "it is done, and still under the bar"
    assert out.startswith("gated: nothing to do; 1 clip is done.")
    assert "1 clip is under the identity gate; `lynx-engine status m.yaml`" in out
    assert "1 done (1 low identity)" in command("plan", "m.yaml")[1]

    assert f"m.yaml:5: low identity: {clip}: {likeness}" in command("status", "gated")[1]
    told = json.loads(command("status", "gated", "--json")[1])
    assert told["campaigns"]["gated"]["low_identity"] == 1
    (weak,) = told["low_identity"]
    assert (weak["clip"], weak["score"], weak["tries"]) == (clip, second["identity_mean"], 2)

    code, out, _ = command("retry", "m.yaml", "--in-process", "--status", "low_identity")
    assert (code, "gated: 1 rendered. " in out) == (0, True)
    assert [r["gate_try"] for r in records()] == [1, 2, 3]
    assert records()[-1]["rendered_seed"] == THIRD
    assert " try " in command("log", "gated")[1]


def test_a_photo_is_looked_at_once_by_each_face_model_for_all_rows_tries_and_campaigns(
    command: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: Counter[str] = Counter()

    def counted(what: str, function: Callable[..., Any], picture_at: int) -> Callable[..., Any]:
        def run_it(*arguments: Any, **named: Any) -> Any:
            # The photo is 512 px wide, and no frame is.
            runs[what] += arguments[picture_at].shape[1] == 512
            return function(*arguments, **named)

        return run_it

    monkeypatch.setattr(found, "find_faces", counted("detector", found.find_faces, 0))
    embed = counted("evaluator", DlibEvaluator.embed, 1)
    monkeypatch.setattr(DlibEvaluator, "embed", embed)
    encode = counted("encoder", FacePaster.embed_face, 1)
    monkeypatch.setattr(FacePaster, "embed_face", encode)
    write("none", attempts=2)
    text = Path("m.yaml").read_text()
    row = text[text.index("{subject: one, text") : text.rindex("]")]
    text = text.replace(row, f"{row}, {row.replace('seed: 1', 'seed: 7')}")
    Path("m.yaml").write_text(text)
    Path("n.yaml").write_text(text.replace("campaign: gated", "campaign: again"))
    assert command("subjects", "m.yaml", "--no-sheet")[0] == 0
    for manifest in ("m.yaml", "n.yaml"):
        assert command("render", manifest, "--in-process")[0] == 1
    assert len(records()) == 4, "two rows, two tries each"
    assert runs == {"detector": 1, "evaluator": 1, "encoder": 1}


def test_a_gate_that_nobody_can_judge_by_is_refused_before_any_work(
    command: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("right")
    monkeypatch.setenv("LYNX_EVALUATOR", "none")
    code, _, err = command("render", "m.yaml", "--in-process")
    assert code == 2
    assert "m.yaml:4: the identity gate needs a recogniser" in err
    assert not Path("outputs").exists()
