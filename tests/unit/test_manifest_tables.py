"""CSV and JSON Lines manifests: what is read, and what is refused with which letter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lynx_engine.errors import Letter, RefusedError
from lynx_engine.manifest.read import read_manifest
from lynx_engine.manifest.tables import COLUMNS, SETTING_COLUMNS, cut_csv
from lynx_engine.manifest.values import Consent, LoraFile, Manifest
from lynx_engine.recipes import laid_over
from lynx_engine.shapes import FrameSize
from tests.support.letters import in_words

AS_UTF8 = "save it as UTF-8 (Excel: Save As, CSV UTF-8; editors: Save As, encoding UTF-8)"


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(data: str | bytes, name: str = "m.csv") -> Manifest:
    Path(name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return read_manifest(name)


def letters(data: str | bytes, name: str = "m.csv") -> list[str]:
    with pytest.raises(RefusedError) as caught:
        read(data, name)
    return [in_words(problem) for problem in caught.value.problems]


def test_every_column_of_a_row_is_understood() -> None:
    Path("p.txt").write_text("From a file.\n")
    cells = {
        "subject": "host", "image": "host.png", "face": "index:2", "synthetic": "TRUE",
        "consent_basis": "contract", "consent_scope": "web", "consent_expires": "2027-06-30",
        "consent_evidence": "c.pdf", "prompt": "", "prompt_file": "p.txt", "seed": "42",
        "variant": "tiny", "size": "480x832", "frames": "81", "fps": "16", "steps": "50",
        "guidance_text": "5", "guidance_identity": "2.5", "scale_identity": "1",
        "scale_reference": "0.5", "negative_prompt": "blur", "precision": "float32",
        "numerics": "strict", "memory": "low", "speed": "cache", "loras": "a.st@0.8; b.st",
        "safety": "on", "label": "eu", "video_codec": "h264", "video_crf": "20",
    }  # fmt: skip
    assert tuple(cells) == COLUMNS
    manifest = read(",".join(cells) + "\n" + ",".join(cells.values()) + "\n")
    host, row = manifest.subjects["host"], manifest.rows[0]
    assert (manifest.campaign, row.where, row.seed) == ("m", "m.csv:2", 42)
    assert (host.images, host.face, host.synthetic) == ((Path("host.png"),), "index:2", True)
    assert host.consent == Consent("contract", "web", date(2027, 6, 30), "c.pdf")
    assert row.prompt.text == "From a file."
    s = row.settings
    assert (s.variant, s.size, s.frames, s.fps, s.steps) == (
        "tiny", FrameSize(480, 832), 81, 16, 50,
    )  # fmt: skip
    assert (s.guidance_text, s.guidance_identity, s.scale_identity, s.scale_reference) == (
        5.0, 2.5, 1.0, 0.5,
    )  # fmt: skip
    assert (s.negative_prompt, s.precision, s.numerics, s.memory, s.speed) == (
        "blur", "float32", "strict", "low", "cache",
    )  # fmt: skip
    assert s.loras == (LoraFile(Path("a.st"), 0.8), LoraFile(Path("b.st"), 1.0))
    assert (s.safety, s.label, s.video_codec, s.video_crf) == ("on", "eu", "h264", 20)


def test_an_empty_cell_is_a_blank_and_a_repeated_subject_needs_its_cells_once() -> None:
    manifest = read(
        "subject,image,synthetic,prompt,frames\n"
        "host,h.png,true,One.,\n"
        "host,,,Two.,9\n"
        "\n"
        "host,h.png,true,Three.,\n"
    )
    assert [row.settings.frames for row in manifest.rows] == [None, 9, None]
    assert [row.where for row in manifest.rows] == ["m.csv:2", "m.csv:3", "m.csv:5"]
    assert list(manifest.subjects) == ["host"]
    assert manifest.rows[0].seed == 0


def test_a_byte_order_mark_semicolons_and_windows_line_ends_are_accepted() -> None:
    manifest = read("\ufeffprompt;seed\r\nA dog, running.;5\r\n")
    assert [(row.prompt.text, row.seed) for row in manifest.rows] == [("A dog, running.", 5)]


def test_a_prompt_keeps_its_line_breaks_and_the_next_row_its_number() -> None:
    manifest = read('prompt,seed\n"two\nlines",1\nnext,2\n')
    assert [(row.prompt.text, row.where) for row in manifest.rows] == [
        ("two\nlines", "m.csv:2"),
        ("next", "m.csv:4"),
    ]


def test_a_prompt_is_named_by_its_first_words_and_its_digest() -> None:
    # sha256 of the texts, computed with coreutils.
    rows = read("prompt\nA robot waves.\n一只狗\n").rows
    assert [row.prompt.name for row in rows] == ["a-robot-waves-b74d9b", "prompt-68c3a1"]


@pytest.mark.parametrize(
    ("header", "letter"),
    [
        ("prompt,sed", "unknown column 'sed', did you mean 'seed'?"),
        ("prompt,seed,seed", "column 'seed' stands twice, as columns 2 and 3; delete one"),
        ("prompt,,seed", "column 2 has no name; name it or delete it"),
        ("", "the first line must name the columns, such as subject,image,prompt"),
        ("prompt", "there are no rows below the header"),
        ('"prompt', 'a quote opens in this row and never closes; add the closing "'),
    ],
)
def test_a_wrong_header_is_answered(header: str, letter: str) -> None:
    assert letters(header) == [f"m.csv:1: {letter}"]


@pytest.mark.parametrize(
    ("row", "letter"),
    [
        ("a,b,c", "the row has 3 cells, the header 2; quote cells that hold the delimiter"),
        ("a", "the row has 1 cell, the header 2; quote cells that hold the delimiter"),
        ('"a,1', 'a quote opens in this row and never closes; add the closing "'),
        ('"a"b,1', "not valid CSV: ',' expected after '\"'; write a quote inside quotes as \"\""),
        (
            "a" * 131_073 + ",1",
            "a cell here is larger than 128 KB; shorten it, or close the quote that opens it",
        ),
        (",1", "a row takes prompt (the text) or prompt_file; fill one of them"),
        ("a,1_000", "seed is '1_000'; a seed is a plain decimal from 0 to 2^63 - 1"),
        ("a,007", "seed is '007'; a seed is a plain decimal from 0 to 2^63 - 1"),
        ("a,12:30", "seed is '12:30'; a seed is a plain decimal from 0 to 2^63 - 1"),
        ("a," + "9" * 5000, f"seed is '{'9' * 58}…; a seed is a plain decimal from 0 to 2^63 - 1"),
    ],
)
def test_a_wrong_row_is_answered_with_its_number(row: str, letter: str) -> None:
    assert letters(f"prompt,seed\nfine,1\n{row}\n") == [f"m.csv:3: {letter}"]


@pytest.mark.parametrize(
    ("column", "cell", "letter"),
    [
        ("frames", "9x", "frames is '9x'; it takes a whole number"),
        ("guidance_text", "nan", "guidance_text is 'nan'; it takes a number"),
        ("size", "64*64", "'64*64' is not a size; write width x height, as in 832x480"),
        ("video_crf", "99", "video_crf is 99; the most is 51"),
        ("loras", "a@x", "loras: scale is 'x'; it takes a number"),
        ("safety", "off", "safety is 'off'; it takes on or acknowledged-off"),
        ("image", "a.png", "image is filled but subject is empty; name it"),
        ("subject", "x", "subject 'x' has no photo; fill its image column in one row"),
        ("subject", "a b", "'a b' cannot be a name; use 1 to 64 of the letters A-Z a-z, digits "
         "and . _ -, beginning with a letter or digit"),
        ("subject", "None", "'None' stands for rows without a subject; rename it"),
    ],
)  # fmt: skip
def test_a_wrong_cell_is_answered_with_row_and_column(column: str, cell: str, letter: str) -> None:
    assert letters(f"prompt,{column}\na,{cell}\n") == [f"m.csv:2: {letter}"]


def test_a_subject_described_in_two_ways_is_refused_with_both_lines() -> None:
    assert letters("subject,image,prompt\nhost,a.png,x\nhost,b.png,y\nHost,,z\n") == [
        "m.csv:3: image of subject 'host' is 'b.png' here and 'a.png' at line 2; make them equal, "
        "or name another subject",
        "m.csv:4: subject 'Host' and 'host' (m.csv:2) differ only in upper and lower case, and "
        "some file systems cannot tell them apart; rename one",
    ]


def test_evidence_that_differs_is_not_quoted_since_a_schedule_logs_what_is_wrong() -> None:
    header = "subject,image,consent_basis,consent_evidence,prompt"
    assert letters(f"{header}\nhost,a.png,c,drawer 7,x\nhost,a.png,c,drawer 8,y\n") == [
        "m.csv:3: consent_evidence of subject 'host' is one text here and another at line 2; make "
        "them equal, or name another subject",
    ]


def test_a_wrong_consent_is_answered_at_the_cell_that_holds_it() -> None:
    assert letters(
        "subject,image,consent_basis,consent_expires,prompt\n"
        "host,a.png,,,x\n"
        "host,,,soon,y\n"
    ) == [
        "m.csv:2: subject 'host': 'consent_basis' is missing; write it",
        "m.csv:3: subject 'host': consent_expires: 'soon' is not a date; write year-month-day, as "
        "in 2027-06-30",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "letter"),
    [
        (b"prompt\nfine\ncaf\xe9\n",
         "m.csv:3: the file is not UTF-8 text from here on; " + AS_UTF8),
        ("prompt\nx\n".encode("utf-16"), "m.csv:1: the file is UTF-16; " + AS_UTF8),
        (b"prompt\nx\0y\n", "m.csv:2: a NUL character stands here; delete it, or save the file as "
         "UTF-8 text"),
    ],
)  # fmt: skip
def test_a_csv_in_another_encoding_is_refused_with_the_row(data: bytes, letter: str) -> None:
    assert letters(data) == [letter]


def test_a_prompt_file_outside_the_folder_is_refused() -> None:
    assert letters("prompt_file\n../x.txt\n") == [
        "m.csv:2: prompt file '../x.txt' is not a path inside the manifest's folder; move the file "
        "there and write its relative path"
    ]


def test_a_prompt_that_is_a_path_is_text() -> None:
    Path("p.txt").write_text("secret")
    assert read("prompt\np.txt\n").rows[0].prompt.text == "p.txt"


def test_more_than_100000_rows_are_refused_at_the_first_too_many() -> None:
    found = letters("prompt,seed\n" + "".join(f"a,{n}\n" for n in range(100_001)))
    assert found == [
        "m.csv:100002: 100,001 rows with those before; the limit is 100,000 in one manifest. "
        "Split it, or narrow the lists"
    ]


def test_json_lines_take_the_same_columns_with_types() -> None:
    rows = [
        {"subject": "host", "image": "h.png", "face": {"index": 1}, "synthetic": True,
         "prompt": "One.", "seed": 3, "size": "64x64", "guidance_text": 5, "video_crf": 20,
         "loras": [{"weights": "a.st", "scale": 0.5}]},
        {"subject": "host", "prompt": "Two.", "frames": None, "loras": "b.st@2"},
    ]  # fmt: skip
    manifest = read("\n".join(map(json.dumps, rows)), "m.jsonl")
    first, second = manifest.rows
    assert (manifest.subjects["host"].face, first.seed, first.settings.guidance_text) == (
        "index:1", 3, 5.0,
    )  # fmt: skip
    assert first.settings.loras == (LoraFile(Path("a.st"), 0.5),)
    assert second.settings.loras == (LoraFile(Path("b.st"), 2.0),)
    assert (second.settings.frames, second.where) == (None, "m.jsonl:2")


@pytest.mark.parametrize(
    ("line", "letter"),
    [
        ('{"prompt": "a", "seed": "1"}',
         "seed is '1'; a seed is a plain decimal from 0 to 2^63 - 1"),
        ('{"prompt": "a", "seed": true}',
         "seed is true; a seed is a plain decimal from 0 to 2^63 - 1"),
        ('{"prompt": "a", "frames": 9.0}', "frames is 9.0; it takes a whole number"),
        ('{"prompt": "a", "steps": NaN}', "NaN is not a number; write one"),
        ('{"prompt": "a", "prompt": "b"}', "'prompt' is written twice in this row; delete one"),
        ('{"prompt": "a", "seed": ""}',
         "seed is ''; a seed is a plain decimal from 0 to 2^63 - 1"),
        ('{"prompt": "a", "steps": %s}' % ("9" * 5000),
         "99999999999999999999… has 5,000 digits; no setting takes so many"),
        ('{"prompt": "a", "negative_prompt": "\\ud800"}',
         "negative_prompt holds half a surrogate pair; type the character anew"),
        ('{"\\ud800": 1}', r"unknown key '\ud800'; remove it"),
        ('{"promt": "a"}', "unknown key 'promt', did you mean 'prompt'?"),
        ('{"prompt": 5}', "prompt is 5, where text is due; quote it"),
        ('{"prompt": "\\ud800"}',
         "the prompt holds half a surrogate pair; type the character anew"),
        ('{"prompt": "a\\u0000"}', "the prompt holds a NUL character; delete it"),
        ("[1]", 'a row is an object, as in {"subject": "host", "prompt": "..."}'),
        ('{"prompt": "a"', "not valid JSON at column 15: Expecting ',' delimiter"),
        ("[" * 100_000, "nested too deeply; a row needs three levels"),
    ],
)  # fmt: skip
def test_a_wrong_json_line_is_answered_with_its_number(line: str, letter: str) -> None:
    assert letters(f'{{"prompt": "fine"}}\n\n{line}\n', "m.jsonl") == [f"m.jsonl:3: {letter}"]


@given(st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=5))
@settings(max_examples=60)
def test_cutting_any_text_ends_in_rows_or_in_problems_with_a_line(lines: list[str]) -> None:
    table = cut_csv("prompt,seed\n" + "\n".join(lines), "m.csv")
    rows = list(table.rows)
    assert all(isinstance(cells, Letter) or len(cells) == 2 for _, cells in rows)
    # What is left aside is blank: rows of empty cells, quoted or not.
    blank = not "".join(lines).replace(",", "").replace('"', "").strip()
    assert rows or table.file_problems or blank
    assert all(p.where.removeprefix("m.csv:").isdecimal() for p in table.file_problems)


def test_an_empty_text_is_written_in_json_lines_and_blank_in_csv() -> None:
    row = {"prompt": "a", "negative_prompt": ""}
    assert read(json.dumps(row), "m.jsonl").rows[0].settings.negative_prompt == ""
    assert read("prompt,negative_prompt\na,\n").rows[0].settings.negative_prompt is None


@pytest.mark.parametrize(("cell", "value"), [(".5", 0.5), ("5.", 5.0), ("+5", 5.0), ("5e-1", 0.5)])
def test_numbers_are_read_as_spreadsheets_and_yaml_write_them(cell: str, value: float) -> None:
    assert read(f"prompt,guidance_text\na,{cell}\n").rows[0].settings.guidance_text == value


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl"])
def test_a_million_rows_that_are_none_are_given_up_at_the_limit(name: str) -> None:
    found = letters("prompt,seed\n" + "a\n" * 100_002, name)
    # Besides the limit, a letter for each row counted; JSON refuses the first line too.
    assert len(found) == 100_001
    assert "100,001 rows with those before; the limit is 100,000" in found[-1]


SETTINGS = {
    "variant": ("wan", "tiny"), "size": ("64x96", "64x64"), "frames": (5, 13), "fps": (4, 9),
    "steps": (2, 5), "guidance_text": (1.5, 3.0), "guidance_identity": (1.5, 3.0),
    "scale_identity": (0.5, 0.7), "scale_reference": (0.5, 0.7), "negative_prompt": ("blur", "fog"),
    "precision": ("bfloat16", "float32"), "numerics": ("strict", "normal"),
    "memory": ("resident", "auto"), "speed": ("cache", "exact"),
    "safety": ("on", "acknowledged-off"),
    "label": ("eu", "none"), "loras": ("a.st@0.5", "b.st@2"), "video_codec": ("h264", "h264"),
    "video_crf": (20, 30),
}  # fmt: skip


def test_every_setting_can_be_overridden_by_a_row_in_all_three_formats() -> None:
    assert tuple(sorted(SETTINGS)) == tuple(sorted(SETTING_COLUMNS))
    row = {key: value for key, (value, _) in SETTINGS.items()}
    defaults = {key: value for key, (_, value) in SETTINGS.items()}
    cells = ",".join(str(value) for value in row.values())
    table = read(f"prompt,{','.join(row)}\na,{cells}\n").rows[0].settings
    lines = read(json.dumps({"prompt": "a", **row}), "m.jsonl").rows[0].settings

    def in_yaml(values: Mapping[str, object]) -> dict[str, object]:
        path, scale = str(values["loras"]).split("@")
        return {
            **{k: v for k, v in values.items() if not k.startswith("video_")},
            "loras": [{"weights": path, "scale": float(scale)}],
            "video": {"codec": values["video_codec"], "crf": values["video_crf"]},
        }

    body = {"defaults": in_yaml(defaults), "rows": [{"text": "a", **in_yaml(row)}]}
    manifest = read(json.dumps(body), "m.yaml")
    assert table == lines == manifest.rows[0].settings
    laid = laid_over(table, manifest.defaults)
    assert laid == table
    assert all(getattr(laid, key) is not None for key in SETTINGS)
