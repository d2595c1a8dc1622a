"""YAML manifests: what is read, and what is refused with which letter."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lynx_engine.errors import RefusedError
from lynx_engine.manifest.read import read_manifest
from lynx_engine.manifest.values import LoraFile, Manifest, WrittenSettings
from lynx_engine.shapes import FrameSize
from tests.support.letters import in_words
from tests.support.pace import Stopwatch

AS_UTF8 = "save it as UTF-8 (Excel: Save As, CSV UTF-8; editors: Save As, encoding UTF-8)"

HOST = "subjects: {host: {image: host.png, synthetic: true}}\n"


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(text: str) -> Manifest:
    Path("m.yaml").write_text(text, encoding="utf-8")
    return read_manifest("m.yaml")


def letters(text: str) -> list[str]:
    with pytest.raises(RefusedError) as caught:
        read(text)
    return [in_words(problem) for problem in caught.value.problems]


DESIGN_EXAMPLE = """\
# yaml-language-server: $schema=manifest.schema.json
campaign: autumn
defaults: {variant: lynx_full, size: 832x480, steps: 50, numerics: normal, memory: auto, speed: exact, safety: on, label: none, video: {codec: h264, crf: 18}}
subjects:
  host: {image: subjects/host.png, consent: {basis: contract, expires: 2027-06-30, evidence: contracts/host.pdf}}
  crew: {image: subjects/crew.jpg, face: {index: 1}, consent: {basis: public-domain}}
  robo: {image: subjects/robo.png, synthetic: true}
prompts:
  pumpkin: A person carves a pumpkin on a porch in the evening.
  beach: {file: prompts/beach.txt}
rows:
  - {subject: host, prompt: pumpkin, seed: 42}
  - {subject: robo, text: "A robot waves.", seed: 7, frames: 49, loras: [{weights: loras/film.safetensors, scale: 0.8}]}
matrix:
  - {subject: [host, robo], prompt: [pumpkin, beach], seed: 1..5, variant: [lynx_lite, lynx_full]}
identity: {min_score: 0.55, attempts: 3, keep: best}
"""  # noqa: E501  # the design's own example, as it stands


@pytest.fixture
def design(in_folder: Path) -> Manifest:
    (in_folder / "prompts").mkdir()
    (in_folder / "prompts/beach.txt").write_text("Waves roll in.\n\n  Gulls cry. \n")
    return read(DESIGN_EXAMPLE)


def test_the_designs_example_keeps_what_was_written_and_leaves_the_rest_blank(
    design: Manifest,
) -> None:
    assert design.campaign == "autumn"
    assert design.defaults == WrittenSettings(
        variant="lynx_full",
        size=FrameSize(832, 480),
        steps=50,
        numerics="normal",
        memory="auto",
        speed="exact",
        safety="on",
        label="none",
        video_codec="h264",
        video_crf=18,
    )
    first, second = design.rows[:2]
    assert (first.where, first.subject, first.prompt.name, first.seed) == (
        "m.yaml:12", "host", "pumpkin", 42,
    )  # fmt: skip
    assert first.settings == WrittenSettings()
    assert second.settings == WrittenSettings(
        frames=49, loras=(LoraFile(Path("loras/film.safetensors"), 0.8),)
    )
    assert (second.prompt.text, second.prompt.name[:14]) == ("A robot waves.", "a-robot-waves-")


def test_the_designs_subjects_carry_face_consent_and_line(design: Manifest) -> None:
    host, crew, robo = (design.subjects[name] for name in ("host", "crew", "robo"))
    assert host.images == (Path("subjects/host.png"),)
    assert host.consent is not None
    assert (host.consent.basis, host.consent.expires, host.consent.evidence) == (
        "contract", date(2027, 6, 30), "contracts/host.pdf",
    )  # fmt: skip
    assert (host.face, crew.face, host.where) == ("only", "index:1", "m.yaml:5")
    assert robo.synthetic
    assert robo.consent is None


def test_the_designs_matrix_is_its_product_over_the_lines_of_a_prompt_file(
    design: Manifest,
) -> None:
    product = design.rows[2:]
    # 2 subjects x (1 prompt + 2 lines) x 5 seeds x 2 variants.
    assert len(product) == 60
    assert {row.prompt.name: row.prompt.text for row in product} == {
        "pumpkin": "A person carves a pumpkin on a porch in the evening.",
        "beach-1": "Waves roll in.",
        "beach-2": "Gulls cry.",
    }
    assert design.gate is not None
    assert (design.gate.min_score, design.gate.attempts, design.gate.keep) == (0.55, 3, "best")


def test_a_prompt_file_stands_for_its_lines_one_line_or_the_whole(in_folder: Path) -> None:
    (in_folder / "p.txt").write_bytes(b"\xef\xbb\xbfone\r\n\r\ntwo\r\n")
    rows = read(
        HOST + "prompts: {p: {file: p.txt}, all: {file: p.txt, whole: true}}\n"
        "rows:\n  - {prompt: p}\n  - {prompt: p-2}\n  - {prompt: all}\n"
    ).rows
    assert [(row.prompt.name, row.prompt.text) for row in rows] == [
        ("p-1", "one"), ("p-2", "two"), ("p-2", "two"), ("all", "one\r\n\r\ntwo"),
    ]  # fmt: skip


def test_a_text_equal_to_a_path_is_text(in_folder: Path) -> None:
    (in_folder / "prompt.txt").write_text("secret")
    row = read("rows: [{text: prompt.txt}]").rows[0]
    assert row.prompt.text == "prompt.txt"


def test_a_campaign_without_a_name_is_called_after_its_file(in_folder: Path) -> None:
    path = in_folder / "秋天.yaml"
    path.write_text("rows: [{text: 一只狗在海滩上}]", encoding="utf-8")
    manifest = read_manifest(path)
    assert manifest.campaign.startswith("campaign-")
    assert manifest.rows[0].prompt.name.startswith("prompt-")
    assert manifest.rows[0].where == f"{path}:1"


def test_settings_on_their_own_lines_are_remembered_with_them() -> None:
    row = read("rows:\n  - text: A dog.\n    frames: 80\n    video:\n      crf: 3\n").rows[0]
    assert (row.where, row.where_of("frames"), row.where_of("video_crf")) == (
        "m.yaml:2", "m.yaml:3", "m.yaml:5",
    )  # fmt: skip
    assert row.where_of("steps") == "m.yaml:2"


@pytest.mark.parametrize("written", ["on", "true", '"on"', "ON"])
def test_safety_on_is_understood_in_every_spelling_yaml_makes_of_it(written: str) -> None:
    row = read(f"rows: [{{text: A dog., safety: {written}}}]").rows[0]
    assert row.settings.safety == "on"


@pytest.mark.parametrize(
    ("row", "letter"),
    [
        ("{text: no}", 'text is no, which YAML may read as false; quote it: "no"'),
        ("{text: 42}", 'text is 42, a number where text is due; quote it: "42"'),
        ("{text: 2026-11-22}", 'text is 2026-11-22, which YAML may read as a date; quote it: '
         '"2026-11-22"'),
        ("{text: ''}", "the prompt is empty; write what the clip shows"),
        ("{text: a, seed: 12:30}", "seed is 12:30, which YAML may read as a number in base 60; "
         "a seed is a plain decimal from 0 to 2^63 - 1"),
        ("{text: a, seed: 0777}", "seed is 0777, which YAML may read as an octal number; "
         "a seed is a plain decimal from 0 to 2^63 - 1"),
        ("{text: a, seed: 1_000}", "seed is 1_000, which YAML may read as a number; "
         "a seed is a plain decimal from 0 to 2^63 - 1"),
        ("{text: a, seed: -1}", "seed is -1; a seed is a plain decimal from 0 to 2^63 - 1"),
        ("{text: a, seed: 9223372036854775808}",
         "seed is 9223372036854775808; a seed is a plain decimal from 0 to 2^63 - 1"),
        ("{text: a, seed: 1..5}", "seed is '1..5'; a seed is a plain decimal from 0 to 2^63 - 1"),
        ("{text: a, stpes: 5}", "unknown key 'stpes', did you mean 'steps'?"),
        ("{text: a, video: {crff: 5}}", "unknown key 'crff', did you mean 'crf'?"),
        ("{text: a, frames: 0}", "frames is 0; the least is 1"),
        ("{text: a, frames: true}", "frames is true; it takes a whole number"),
        ("{text: a, steps: 1001}", "steps is 1001; the most is 1000"),
        ("{text: a, fps: 121}", "fps is 121; the most is 120"),
        ("{text: a, guidance_text: .nan}", "guidance_text is .nan, which YAML may read as a "
         "number without a value; it takes a number"),
        ("{text: a, guidance_text: -0.5}", "guidance_text is -0.5; the least is 0"),
        ("{text: a, video: {crf: 52}}", "crf is 52; the most is 51"),
        ("{text: a, size: 832*480}",
         "'832*480' is not a size; write width x height, as in 832x480"),
        ("{text: a, precision: fp8}", "precision is 'fp8'; it takes float32 or bfloat16"),
        ("{text: a, safety: off}", "safety is off, which YAML may read as false; it takes on or "
         "acknowledged-off"),
        ("{text: a, loras: [{weight: x}]}", "'weights' is missing; write it"),
        ("{text: a, subject: hots}", "there is no subject 'hots', did you mean 'host'?"),
        ("{prompt: beech}", "there is no prompt 'beech', did you mean 'beach'?"),
        ("{subject: host}", "a row takes prompt (a name) or text; write one of them"),
        ("{text: a, prompt: beach}", "a row takes prompt (a name) or text; write one of them"),
        ('{text: a, negative_prompt: "b\\0"}', "negative_prompt holds a NUL character; delete it"),
        ("just words", "a row is 'just words'; it takes a mapping"),
    ],
)  # fmt: skip
def test_a_wrong_row_is_answered_with_its_line_and_remedy(row: str, letter: str) -> None:
    found = letters(HOST + "prompts: {beach: Waves.}\nrows:\n  - {text: fine}\n  - " + row)
    assert f"m.yaml:5: {letter}" in found


@pytest.mark.parametrize(
    ("subject", "letter"),
    [
        ("{}", "'image' is missing; write it"),
        ("{image: https://x.org/a.png}", "image is a URL; download the file and write its path"),
        ("{image: a.png, synthetic: yes}",
         "synthetic is yes, which YAML may read as true; it takes true or false"),
        ("{image: a.png, face: {index: -1}}", "face takes largest, or {index: n} with n counted "
         "from 0 at the left (index:n in a table); leave it out when the photo shows one face"),
        ("{image: a.png, consent: {basis: contract, expires: 30.6.2027}}",
         "'30.6.2027' is not a date; write year-month-day, as in 2027-06-30"),
        ("{image: a.png, consnt: {}}", "unknown key 'consnt', did you mean 'consent'?"),
    ],
)  # fmt: skip
def test_a_wrong_subject_is_answered_once_and_its_rows_are_silent(
    subject: str, letter: str
) -> None:
    found = letters(f"subjects:\n  a: {subject}\nrows: [{{subject: a, text: x}}]")
    assert found == [f"m.yaml:2: {letter}"]


@pytest.mark.parametrize(
    ("name", "letter"),
    [
        ("con", "'con' is reserved by Windows; choose another name"),
        ("NUL.png", "'NUL.png' is reserved by Windows; choose another name"),
        ("../up", "'../up' cannot be a name; use 1 to 64 of the letters A-Z a-z, digits and . _ -, "
         "beginning with a letter or digit"),
        ("none", "'none' stands for rows without a subject; rename it"),
        ("Host", "subject 'Host' and 'host' (m.yaml:2) differ only in upper and lower case, and "
         "some file systems cannot tell them apart; rename one"),
    ],
)  # fmt: skip
def test_names_that_cannot_be_file_names_are_refused(name: str, letter: str) -> None:
    found = letters(
        "subjects:\n  host: {image: a.png, synthetic: true}\n"
        f"  {name}: {{image: a.png, synthetic: true}}\nrows: [{{text: x}}]"
    )
    assert found == [f"m.yaml:3: {letter}"]


def test_a_name_of_64_characters_is_accepted_and_65_is_not() -> None:
    subject = "subjects: {%s: {image: a.png, synthetic: true}}\nrows: [{text: x}]"
    assert read(subject % ("a" * 64)).subjects.keys() == {"a" * 64}
    assert "cannot be a name" in letters(subject % ("a" * 65))[0]


def test_prompt_files_stay_inside_the_manifests_folder(in_folder: Path) -> None:
    outside = in_folder.parent / f"{in_folder.name}-outside.txt"
    outside.write_text("secret")
    (in_folder / "link.txt").symlink_to(outside)
    (in_folder / "folder").mkdir()
    os.mkfifo(in_folder / "pipe")
    (in_folder / "long.txt").write_bytes(b"x" * 65_537)
    (in_folder / "latin.txt").write_bytes(b"caf\xe9")
    (in_folder / "blank.txt").write_text("\n \n")
    files = ["../x.txt", "/etc/hosts", "link.txt", "folder", "pipe", "long.txt", "latin.txt"]
    files += ["blank.txt", "gone.txt"]
    lines = [f"  p{n}: {{file: {name}}}" for n, name in enumerate(files)]
    found = letters("prompts:\n" + "\n".join(lines) + "\nrows: [{text: x}]")
    inside = "is not a path inside the manifest's folder; move the file there and write its "
    assert [line.split("prompt file ")[1] for line in found] == [
        f"'../x.txt' {inside}relative path",
        f"'/etc/hosts' {inside}relative path",
        "'link.txt' leads out of the manifest's folder; copy the file into it",
        "'folder': is a folder, not a file",
        "'pipe': is a pipe, not a file",
        "'long.txt': larger than 64 KB, the limit; split it",
        "'latin.txt': the file is not UTF-8 text from here on; " + AS_UTF8,
        "'blank.txt' is empty; write one prompt a line",
        "'gone.txt': no such file; check the path",
    ]
    assert [line.split(":")[1] for line in found] == [str(n) for n in range(2, 11)]


def test_a_prompt_of_4000_characters_is_accepted_and_4001_is_not() -> None:
    assert len(read(f"rows: [{{text: {'x' * 4000}}}]").rows) == 1
    assert letters(f"rows: [{{text: {'x' * 4001}}}]") == [
        "m.yaml:1: the prompt has 4,001 characters; the limit is 4,000"
    ]


def test_hostile_text_in_a_prompt_is_kept_exactly() -> None:
    text = "</script> =cmd() \\e[31m \u202e\u200b [/red]"
    row = read(f'rows: [{{text: "{text}"}}]').rows[0]
    assert row.prompt.text == text.replace("\\e", "\x1b")


def test_every_problem_is_told_at_once_in_the_order_of_the_file() -> None:
    found = letters(
        "campain: x\n"
        "defaults: {stpes: 4, variant: tiny}\n"
        "subjects:\n"
        "  host: {imag: a.png}\n"
        "prompts: {a: yes}\n"
        "rows:\n"
        "  - {subject: nobody, text: x, frames: many}\n"
        "matrix:\n"
        "  - {text: x, seed: 5..1}\n"
        "identity: {min_score: 2}\n"
    )
    assert [line.removeprefix("m.yaml:") for line in found] == [
        "1: unknown key 'campain', did you mean 'campaign'?",
        "2: unknown key 'stpes', did you mean 'steps'?",
        "4: 'image' is missing; write it",
        "4: unknown key 'imag', did you mean 'image'?",
        "5: prompt 'a' is yes, which YAML may read as true; quote it: \"yes\"",
        "7: frames is 'many'; it takes a whole number",
        "7: there is no subject 'nobody'; define it under subjects",
        "9: seed 5..1 runs backwards; write 1..5",
        "10: min_score is 2; the most is 1",
    ]


def test_reading_leniently_keeps_sound_rows_and_sorts_the_problems() -> None:
    Path("m.yaml").write_text("campain: x\nrows:\n  - {text: fine}\n  - {text: 5}\n")
    manifest = read_manifest("m.yaml", lenient=True)
    assert [row.prompt.text for row in manifest.rows] == ["fine"]
    assert [p.where for p in manifest.problems] == ["m.yaml:1"]
    assert [p.where for p in manifest.row_problems] == ["m.yaml:4"]


@pytest.mark.parametrize(
    ("data", "letter"),
    [
        (b"", "m.yaml:1: the file is empty; it needs subjects, prompts and rows"),
        (b"- a\n", "m.yaml:1: a manifest is a mapping with the keys subjects, prompts and rows; "
         "see the README"),
        (b"campaign: x\n", "m.yaml:1: there are no rows; write rows: or matrix:"),
        (b"rows: 5\n", "m.yaml:1: rows is 5; it takes a list"),
        ("rows: []".encode("utf-16"), "m.yaml:1: the file is UTF-16; " + AS_UTF8),
        (b"a: 1\nb: \xff\n", "m.yaml:2: the file is not UTF-8 text from here on; " + AS_UTF8),
        (b"a: 1\n\0", "m.yaml:2: a NUL character stands here; delete it, or save the file as UTF-8 "
         "text"),
        (b"#" * (8 * 1024 * 1024 + 1), "m.yaml: larger than 8 MB, the limit; split it"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_manifest_is_answered(data: bytes, letter: str) -> None:
    Path("m.yaml").write_bytes(data)
    with pytest.raises(RefusedError) as caught:
        read_manifest("m.yaml")
    assert [in_words(problem) for problem in caught.value.problems] == [letter]


@given(
    at=st.integers(0, len(DESIGN_EXAMPLE)),
    cut=st.integers(0, 20),
    token=st.sampled_from(
        [
            "",
            "{",
            "}",
            "[",
            "- ",
            ": ",
            "&a ",
            "*a",
            "!!x ",
            "~",
            "no",
            '"',
            "\n",
            "<<: ",
            "#",
            "0777",
        ]
    ),
)
@settings(max_examples=150, deadline=None)
def test_any_mutation_of_a_manifest_ends_in_rows_or_in_problems_with_a_line(
    at: int, cut: int, token: str
) -> None:
    text = DESIGN_EXAMPLE[:at] + token + DESIGN_EXAMPLE[at + cut :]
    Path("m.yaml").write_text(text, encoding="utf-8")
    try:
        found = read_manifest("m.yaml", lenient=True)
        told = [*found.problems, *found.row_problems]
        assert found.rows or told
    except RefusedError as error:
        told = list(error.problems)
        assert told
    assert all(problem.where.removeprefix("m.yaml:").isdecimal() for problem in told)


def test_paths_that_are_no_manifest_are_answered(in_folder: Path) -> None:
    (in_folder / "d.yaml").mkdir()
    os.mkfifo(in_folder / "f.yaml")
    for path, text in {
        "gone.yaml": "no such file; check the path",
        "d.yaml": "is a folder, not a file",
        "f.yaml": "is a pipe, not a file",
        "m.toml": "a manifest ends in .yaml, .yml, .csv or .jsonl; rename the file",
    }.items():
        with pytest.raises(RefusedError) as caught:
            read_manifest(path)
        assert [in_words(problem) for problem in caught.value.problems] == [f"{path}: {text}"]


def test_every_name_a_row_or_matrix_gets_wrong_is_told_at_once() -> None:
    found = letters(
        "rows:\n  - {subject: ann, prompt: sea}\n"
        "matrix:\n  - {subject: [bob, cid], prompt: [sun, sky], zip: [subject, seed]}\n"
        "  - {text: ['', a], exclude: [{seed: 1}, {}]}\n"
    )
    assert [line.split(";")[0].removeprefix("m.yaml:") for line in found] == [
        "2: there is no subject 'ann'",
        "2: there is no prompt 'sea'",
        "4: there is no subject 'bob'",
        "4: there is no subject 'cid'",
        "4: there is no prompt 'sun'",
        "4: there is no prompt 'sky'",
        "4: zip names 'seed', which the matrix does not list",
        "5: the prompt is empty",
        "5: exclusion 1 names seed, which the matrix does not list",
        "5: exclusion 2 is empty",
    ]


def test_a_bare_consent_or_gate_is_answered_with_the_block_it_takes() -> None:
    found = letters(
        "subjects: {host: {image: a.png, consent: contract}}\nidentity: 0.5\nrows: [{text: x}]"
    )
    assert found == [
        "m.yaml:1: consent is 'contract'; it takes a mapping, as in consent: {basis: contract}",
        "m.yaml:2: identity is 0.5; it takes a mapping, as in identity: {min_score: 0.4, "
        "attempts: 3}",
    ]


def test_an_empty_subject_is_called_by_its_name() -> None:
    assert letters("subjects:\n  host:\nrows: [{text: x}]") == [
        "m.yaml:2: subject 'host' is empty; it takes a mapping"
    ]


def test_a_hundred_thousand_wrong_entries_get_one_letter() -> None:
    assert letters(f"rows: [{'1,' * 100_000}1]") == [
        "m.yaml:1: 100,001 rows with those before; the limit is 100,000 in one manifest. Split it, "
        "or narrow the lists"
    ]


def test_a_thousand_wrong_names_among_a_thousand_are_answered_in_seconds() -> None:
    prompts = "".join(f"  prompt-{n}: Text {n}.\n" for n in range(1000))
    rows = "".join(f"  - {{prompt: promt-{n}}}\n" for n in range(1000))
    watch = Stopwatch()
    found = letters(f"prompts:\n{prompts}rows:\n{rows}")
    # All a thousand times a thousand comparisons take ten seconds.
    assert watch.idle_s() < 5
    assert len(found) == 1000
    assert found[0] == "m.yaml:1003: there is no prompt 'promt-0', did you mean 'prompt-0'?"
