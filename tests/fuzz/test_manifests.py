"""A stranger's manifest is read or refused with a letter, in seconds, never with a traceback."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from lynx_engine.manifest_rules import Rule
from tests.faults.harness import FULL, size
from tests.fuzz.manifests import CORPUS, PHOTO, Manifest, good_manifests, large, made_up, mutated
from tests.fuzz.watched import Reply, Watched, watched
from tests.support.jobs import astronaut
from tests.support.pace import slowness
from tests.support.workspaces import Workspace

Figure = Callable[[str], None]

# Processor time on an idle core, and memory.
MOST_S, MOST_MB = 2.0, 512.0
_LETTER = re.compile(
    r"  (?:.*/)?manifest\.(?:yaml|csv|jsonl):(\d+): .+ \[([a-z0-9-]+)\]", re.DOTALL
)
_RULES = frozenset(Rule)
# Of these the file as a whole is at fault, and no line of it.
_OF_FILE = re.compile(
    rf"  manifest\.\w+: .+ \[(?:{Rule.FILE_TOO_LARGE}|{Rule.UNREADABLE_FILE}|{Rule.FILE_TYPE})\]"
)


@dataclass
class Tally:
    """What became of many manifests."""

    refused: int = 0
    accepted: int = 0
    tracebacks: int = 0
    without_place_or_rule: int = 0
    slowest_s: float = 0.0
    most_mb: float = 0.0
    rules: set[str] = field(default_factory=set)

    def take(self, reply: Reply, *, most_s: float = MOST_S) -> None:
        """Count one reply.

        Raises:
            AssertionError: If it is no answer that RELIABILITY allows.
        """
        faults = faults_of(reply, most_s=most_s)
        self.tracebacks += "traceback" in faults
        self.without_place_or_rule += any(fault.startswith("no place") for fault in faults)
        assert not faults, (faults, reply)
        self.refused += reply.code == 2
        self.accepted += reply.code == 0
        self.slowest_s = max(self.slowest_s, reply.cpu_s)
        self.most_mb = max(self.most_mb, reply.peak_mb)
        self.rules |= {match[2] for match in map(_LETTER.fullmatch, reply.err.split("\n")) if match}

    def __str__(self) -> str:
        return (
            f"tried={self.refused + self.accepted} refused={self.refused} "
            f"accepted={self.accepted} rules={len(self.rules)} tracebacks={self.tracebacks} "
            f"without_place_or_rule={self.without_place_or_rule} "
            f"slowest={self.slowest_s:.2f}s most_memory={self.most_mb:.0f}MB"
        )


def faults_of(reply: Reply, *, most_s: float = MOST_S) -> list[str]:
    """Return what is wrong with an answer to a manifest."""
    faults: list[str] = []
    if reply.code not in {0, 2}:
        faults.append(f"exit {reply.code}")
    if "Traceback" in reply.err or "bug in lynx-engine" in reply.err:
        faults.append("traceback")
    if reply.cpu_s > most_s and reply.cpu_s > most_s * slowness():
        faults.append(f"{reply.cpu_s:.1f} s")
    if reply.peak_mb > MOST_MB:
        faults.append(f"{reply.peak_mb:.0f} MB")
    if reply.code == 2:
        head, *lines = reply.err.removesuffix("\n").split("\n")
        if not re.fullmatch(r"\d+ problems?, nothing was rendered:", head):
            return [*faults, f"no headline: {head[:80]}"]
        if int(head.split()[0]) != len(lines):
            faults.append(f"{head[:20]} but {len(lines)} lines")
        for line in lines:
            match = _LETTER.fullmatch(line)
            if _OF_FILE.fullmatch(line):
                continue
            if match is None or match[2] not in _RULES:
                faults.append(f"no place or no rule: {line[:200]}")
    return faults


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "lynx.toml").touch()
    (folder / "subjects").mkdir()
    (folder / "prompts").mkdir()
    for name in (PHOTO, "subjects/astronaut.png"):
        shutil.copy(astronaut(), folder / name)
    (folder / "prompts" / "beach.txt").write_text("A beach.\nA sea.\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def child(folder: Path) -> Generator[Watched]:
    with watched(folder) as started:
        yield started


def check(child: Watched, manifest: Manifest) -> Reply:
    suffix, content = manifest
    name = f"manifest{suffix}"
    (child.folder / name).write_bytes(content)
    return child.command("check", name)


QUIET = settings(
    deadline=None,
    database=None,
    derandomize=not FULL,
    print_blob=False,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def test_made_up_manifests_are_read_or_refused_with_place_and_rule(
    child: Watched, figure: Figure
) -> None:
    tally = Tally()

    @settings(QUIET, max_examples=size(quick=150, full=6000))
    @given(made_up())
    def look(manifest: Manifest) -> None:
        tally.take(check(child, manifest))

    look()
    assert tally.refused > tally.accepted
    figure(f"FUZZ manifests made-up {tally}")


def test_mutated_manifests_are_read_or_refused_with_place_and_rule(
    child: Watched, figure: Figure
) -> None:
    tally = Tally()

    @settings(QUIET, max_examples=size(quick=150, full=6000))
    @given(mutated())
    def look(manifest: Manifest) -> None:
        tally.take(check(child, manifest))

    look()
    assert tally.refused
    assert tally.accepted
    figure(f"FUZZ manifests mutated {tally}")


def test_kept_and_large_manifests_are_read_or_refused_with_place_and_rule(
    child: Watched, figure: Figure
) -> None:
    tally = Tally()
    kept = {name: m for name, m in large().items() if FULL or len(m[1]) < 2**19}
    written_out = kept.pop("unknown-subjects", None)
    for manifest in [*good_manifests(), *kept.values()]:
        tally.take(check(child, manifest))
    if written_out is not None:
        # The parser alone takes seconds for a hundred thousand rows of YAML: ten are promised.
        tally.take(check(child, written_out), most_s=10.0)
    assert len(list(CORPUS.iterdir())) >= 20
    figure(f"FUZZ manifests hand-made {tally}")


def test_installed_command_answers_as_the_child_does(folder: Path, child: Watched) -> None:
    for name in ("alias-bomb.yaml", "ragged.csv", "surrogate.jsonl"):
        path = CORPUS / name
        told = check(child, (path.suffix, path.read_bytes()))
        done = Workspace(folder).run("check", f"manifest{path.suffix}")
        assert (done.returncode, done.stderr) == (told.code, told.err)


@pytest.mark.parametrize(("mutant", "kept"), [("rules", "ragged.csv"), ("encoding", "utf-16.csv")])
def test_answer_without_a_rule_and_a_traceback_are_seen(
    folder: Path, child: Watched, figure: Figure, mutant: str, kept: str
) -> None:
    manifest = (".csv", (CORPUS / kept).read_bytes())
    assert not faults_of(check(child, manifest))
    with watched(folder, mutant) as broken:
        assert faults_of(check(broken, manifest))
    figure(f"MUTANT fuzz-{mutant} red")
