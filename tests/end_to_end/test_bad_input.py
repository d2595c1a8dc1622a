"""Bad input through the installed command: exit 2, file and line, every problem, no traceback."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from tests.support.jobs import astronaut
from tests.support.workspaces import Workspace

HEAD = """\
defaults: {variant: tiny}
subjects: {one: {image: one.png, consent: {basis: public-domain}}}
prompts: {wave: A person waves.}
"""
ROW = "rows: [{subject: one, prompt: wave}]\n"


def refused(workspace: Workspace, name: str, content: str) -> list[str]:
    """Write a manifest, render it, and return the problems it is refused with."""
    workspace.write(name, content)
    done = workspace.run("render", name, "--in-process")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (workspace.folder / "outputs").exists()
    head, *problems = done.stderr.splitlines()
    assert head == f"{len(problems)} problem{'s' * (len(problems) != 1)}, nothing was rendered:"
    return [problem.removeprefix("  ") for problem in problems]


def two_faces(workspace: Workspace) -> None:
    photo = Image.open(astronaut())
    wide = Image.new("RGB", (1024, 512))
    wide.paste(photo, (0, 0))
    wide.paste(photo, (512, 0))
    wide.save(workspace.folder / "one.png")


def no_face(workspace: Workspace) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    Image.fromarray(noise).save(workspace.folder / "one.png")


def missing(workspace: Workspace) -> None:
    (workspace.folder / "one.png").unlink()


def text_named_png(workspace: Workspace) -> None:
    (workspace.folder / "one.png").write_text("hello")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (missing, "one.png does not exist. Check the path; it is read from the manifest's folder."),
        (text_named_png, "one.png is not a PNG, JPEG or WebP picture. Convert it to one of these."),
        (
            two_faces,
            "subject 'one': one.png: 2 faces were found in the photo, 0 at x = 226, 1 at x = 738. "
            "Say which one is the subject: write `face: largest` or `face: {index: n}`, n from 0 "
            "to 1, counted from the left.",
        ),
        (no_face, "subject 'one': one.png: no face was found in the photo"),
    ],
)
def test_photo_that_cannot_be_used_is_refused(
    workspace: Workspace, spoil: Callable[[Workspace], None], words: str
) -> None:
    spoil(workspace)
    (problem,) = refused(workspace, "m.yaml", HEAD + ROW)
    assert problem.startswith(f"m.yaml:2: {words}")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("campain: x\n" + HEAD + ROW, "m.yaml:1: unknown key 'campain', did you mean 'campaign'?"),
        (
            HEAD + "rows:\n  - {subject: one, prompt: wave, frames: 80}\n",
            "m.yaml:5: frames is 80; tiny renders 4k + 1 frames. Use 77 or 81.",
        ),
        (
            HEAD + "rows:\n  - {subject: one, prompt: wave}\n  - {subject: one, prompt: wave}\n",
            "m.yaml:6: rows at m.yaml:5 and m.yaml:6 are one clip; remove one",
        ),
        (
            HEAD.replace("A person waves.", "{file: ../secret.txt}") + ROW,
            "m.yaml:3: prompt 'wave': prompt file '../secret.txt' is not a path inside the "
            "manifest's folder; move the file there and write its relative path",
        ),
        (
            "a: " + "[" * 40 + "]" * 40,
            "m.yaml:1: nested deeper than 32 levels; a manifest needs six",
        ),
        ("a: " + "[" * 30_000, "m.yaml:1: nested deeper than 32 levels; a manifest needs six"),
        ("x: {k: v}\ny: {<<: *x}\n", "m.yaml:2: "),
        ("a: !!python/object/apply:os.system ['id']\n", "m.yaml:1: "),
        (
            HEAD + "rows: [{subject: one, prompt: wave}]\nrows: []\n",
            "m.yaml:5: 'rows' is written twice, here and at line 4; delete one",
        ),
    ],
)
def test_bad_yaml_is_refused_at_its_line(workspace: Workspace, content: str, problem: str) -> None:
    problems = refused(workspace, "m.yaml", content)
    assert problems[0].startswith(problem)


def test_alias_bomb_is_refused_at_once(workspace: Workspace) -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    (problem, *_) = refused(workspace, "m.yaml", "\n".join(levels))
    assert problem.startswith("m.yaml:")


def test_ragged_csv_names_the_row_and_both_counts(workspace: Workspace) -> None:
    table = "subject,image,consent_basis,prompt,variant\n"
    table += "one,one.png,public-domain,A person waves.,tiny\n"
    table += "one,one.png,public-domain,Hello, she waves.,tiny\n"
    (problem,) = refused(workspace, "m.csv", table)
    assert problem == (
        "m.csv:3: the row has 6 cells, the header 5; quote cells that hold the delimiter "
        "[ragged-row]"
    )


def test_all_problems_are_told_at_once_in_the_order_of_the_file(workspace: Workspace) -> None:
    two_faces(workspace)
    content = (
        "campaign: trial\nspeling: 1\n"
        + HEAD
        + "rows:\n"
        + "  - {subject: one, prompt: wave, frames: 80}\n"
        + "  - {subject: won, prompt: wave}\n"
        + "  - {subject: one, prompt: wave, variant: tinny}\n"
    )
    problems = refused(workspace, "m.yaml", content)
    assert [problem.split(" ")[0] for problem in problems] == [
        "m.yaml:2:",
        "m.yaml:4:",
        "m.yaml:7:",
        "m.yaml:8:",
        "m.yaml:9:",
    ]


def test_problems_are_json_when_asked(workspace: Workspace) -> None:
    import json

    workspace.write("m.yaml", HEAD + "rows: [{subject: won, prompt: wave}]\n")
    done = workspace.run("check", "m.yaml", "--json")
    assert done.returncode == 2
    (problem,) = json.loads(done.stdout)["problems"]
    assert (problem["where"], problem["rule"]) == ("m.yaml:4", "unknown-subject")
    assert "won" in problem["text"]


def test_bad_rows_can_be_skipped_and_the_exit_code_says_so(workspace: Workspace) -> None:
    rows = "rows:\n  - {subject: one, prompt: wave}\n  - {subject: won, prompt: wave}\n"
    workspace.write("m.yaml", HEAD + rows)
    done = workspace.run("render", "m.yaml", "--in-process", "--skip-bad-rows")
    assert done.returncode == 1
    assert "m.yaml:6: " in done.stderr
    assert len(workspace.clips("m")) == 1


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("modles = 'x'", "lynx.toml: unknown setting 'modles', did you mean 'models'?"),
        ("threads = 0", "lynx.toml: threads: "),
        ("threads = ", "lynx.toml: not valid TOML"),
    ],
)
def test_bad_settings_are_refused_by_name(workspace: Workspace, lines: str, words: str) -> None:
    workspace.write("lynx.toml", lines)
    done = workspace.run("variants")
    assert done.returncode == 2
    assert words in done.stderr.replace("\n", "")


def test_bad_variable_is_named_as_such(workspace: Workspace) -> None:
    done = workspace.run("variants", LYNX_THREADS="many")
    assert done.returncode == 2
    assert "LYNX_THREADS: threads: " in done.stderr


def test_people_are_not_rendered_without_a_safety_check_or_a_person_who_answers(
    workspace: Workspace,
) -> None:
    content = HEAD.replace("variant: tiny", "variant: lynx_full") + ROW
    workspace.write("m.yaml", content)
    assert workspace.run("check", "m.yaml").returncode == 0, "open_nsfw is installed for the tests"
    workspace.write("lynx.toml", 'classifiers = "none"\n')
    done = workspace.run("check", "m.yaml")
    assert done.returncode == 2
    assert "no safety classifier looks at its frames here" in done.stderr
    assert "pip install 'lynx_engine[safety]'" in done.stderr
    assert "safety: acknowledged-off" in done.stderr
    workspace.write("m.yaml", content.replace("lynx_full", "lynx_full, safety: acknowledged-off"))
    assert workspace.run("check", "m.yaml").returncode == 0
    workspace.write("lynx.toml", 'classifiers = ["opennsfw@0.9", "falconsai"]\n')
    done = workspace.run("check", "m.yaml")
    assert done.returncode == 2
    assert "opennsfw@0.9 is laxer than the released program, which flags from 0.75" in done.stderr
    assert "falconsai is not installed: lynx-engine models pull safety" in done.stderr


def test_attention_that_cannot_run_here_is_refused_before_the_work(workspace: Workspace) -> None:
    workspace.write("lynx.toml", 'attention = "cudnn"\n')
    (letter,) = refused(workspace, "one.yaml", HEAD + ROW)
    assert letter.startswith("attention: attention 'cudnn' (cuDNN attention) cannot run on cpu: ")
    assert "NVIDIA GPUs only" in letter
    assert "attention = 'auto'" in letter
