"""Tables as spreadsheets write them: what is understood, and the letter that mends what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from lynx_engine.errors import RefusedError
from lynx_engine.manifest.read import read_manifest
from lynx_engine.manifest.spreadsheets import is_error_value
from lynx_engine.manifest.values import Manifest
from lynx_engine.manifest_rules import Rule

HEADER = "subject;image;synthetic;prompt;seed;variant;guidance_text"
ROW = 'host;h.png;TRUE;"Sie winkt, ""hallo"".";42;tiny;5.0'
AS_UTF8 = "save it as UTF-8 (Excel: Save As, CSV UTF-8; editors: Save As, encoding UTF-8)"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(data: bytes) -> Manifest:
    Path("m.csv").write_bytes(data)
    return read_manifest("m.csv")


def refusal(data: bytes) -> list[str]:
    with pytest.raises(RefusedError) as caught:
        read(data)
    return [str(problem) for problem in caught.value.problems]


TEXT = f"{HEADER}\r\n{ROW}\r\n"
# Byte for byte what the programs write.
EXPORTS = {
    "Excel CSV UTF-8, semicolon locale": b"\xef\xbb\xbf" + TEXT.encode(),
    "Excel told sep=;": b"sep=;\r\n" + TEXT.encode(),
    "sep= after a byte order mark": b"\xef\xbb\xbfsep=;\r\n" + TEXT.encode(),
    "sep= in quotes": b'"sep=;"\r\n' + TEXT.encode(),
    "Excel with formatted but empty columns and rows": (
        f"{HEADER};;;\r\n{ROW};;;\r\n;;;;;;;;;\r\n;;;;;;;;;\r\n".encode()
    ),
    "Google Sheets: commas, line feeds between, CR LF, none at the end": (
        b"subject,image,synthetic,prompt,seed,variant,guidance_text\r\n"
        b'host,h.png,TRUE,"Sie winkt, ""hallo"".",42,tiny,5.0'
    ),
    "LibreOffice: all text in quotes, line feeds": (
        b'"subject","image","synthetic","prompt","seed","variant","guidance_text"\n'
        b'"host","h.png","true","Sie winkt, ""hallo"".","42","tiny","5.0"\n'
    ),
    "old Macintosh: carriage returns alone": TEXT.replace("\r\n", "\r").encode(),
    "tabs": f"{HEADER}\r\n{ROW}\r\n".replace(";", "\t").encode(),
    "no-break and other spaces around the header's names": (
        f"{HEADER}\r\n".replace("seed", "\u00a0seed\u00a0").replace("image", " image\u2003")
        + f"{ROW}\r\n"
    ).encode(),
}


@pytest.mark.parametrize("data", EXPORTS.values(), ids=EXPORTS)
def test_an_export_of_a_spreadsheet_gives_the_row_that_was_typed(data: bytes) -> None:
    manifest = read(data)
    (row,) = manifest.rows
    assert (row.subject, row.prompt.text, row.seed) == ("host", 'Sie winkt, "hallo".', 42)
    assert (row.settings.variant, row.settings.guidance_text) == ("tiny", 5.0)
    assert manifest.subjects["host"].synthetic


def test_lines_are_those_of_the_file_after_a_told_separator_and_breaks_inside_quotes() -> None:
    broken, wrong = ROW.replace("Sie", "Sie\r\n\r\n"), ROW.replace("42", "x")
    data = f"sep=;\r\n{HEADER}\r\n{broken}\r\n{wrong}"
    assert refusal(data.encode()) == [
        "m.csv:6: seed is 'x'; a seed is a plain decimal from 0 to 2^63 - 1 [bad-seed]"
    ]


@pytest.mark.parametrize(
    ("encoding", "letter"),
    [
        ("utf-16-le", f"m.csv:1: the file is UTF-16; {AS_UTF8} [encoding]"),
        ("utf-16-be", f"m.csv:1: the file is UTF-16; {AS_UTF8} [encoding]"),
        ("utf-16", f"m.csv:1: the file is UTF-16; {AS_UTF8} [encoding]"),
        ("cp1252", f"m.csv:3: the file is not UTF-8 text from here on; {AS_UTF8} [encoding]"),
        ("gbk", f"m.csv:3: the file is not UTF-8 text from here on; {AS_UTF8} [encoding]"),
        ("shift_jis", f"m.csv:3: the file is not UTF-8 text from here on; {AS_UTF8} [encoding]"),
    ],
)
@pytest.mark.parametrize("ending", ["\r\n", "\n", "\r"], ids=["crlf", "lf", "cr"])
def test_another_encoding_is_refused_at_its_line_with_the_way_to_utf_8(
    encoding: str, letter: str, ending: str
) -> None:
    word = {"gbk": "你好", "shift_jis": "こんにちは"}.get(encoding, "Größe")
    text = f"{TEXT}{ROW.replace('winkt', word)}".replace("\r\n", ending)
    assert refusal(text.encode(encoding)) == [letter]


@pytest.mark.parametrize(
    ("column", "cell", "letter"),
    [
        ("guidance_text", "5,0", "it takes a number; write 5.0 [wrong-type]"),
        ("guidance_text", ",5", "it takes a number; write 0.5 [wrong-type]"),
        ("frames", "9,0", "it takes a whole number; write 9 [wrong-type]"),
        ("seed", "42.0", "from 0 to 2^63 - 1; write 42 [bad-seed]"),
        ("seed", "42,00", "from 0 to 2^63 - 1; write 42 [bad-seed]"),
        ("seed", "1E+05", "shortened it: give the column the format Number or Text [bad-seed]"),
        ("seed", "1,2E+18", "shortened it: give the column the format Number or Text [bad-seed]"),
        ("synthetic", "WAHR", "it takes true or false; write true [wrong-type]"),
        ("synthetic", "VRAI", "it takes true or false; write true [wrong-type]"),
        ("synthetic", "ИСТИНА", "it takes true or false; write true [wrong-type]"),
        ("synthetic", "FALSCH", "it takes true or false; write false [wrong-type]"),
        ("synthetic", "yes", "it takes true or false; write true [wrong-type]"),
        ("synthetic", "maybe", "it takes true or false [wrong-type]"),
        ("consent_expires", "30.06.2027", "as in 2027-06-30; write 2027-06-30 [bad-date]"),
        ("consent_expires", "6/30/2027", "as in 2027-06-30; write 2027-06-30 [bad-date]"),
        ("consent_expires", "31/12/2026", "as in 2027-06-30; write 2026-12-31 [bad-date]"),
        ("consent_expires", "6/7/2027", "year-month-day, as in 2027-06-30 [bad-date]"),
        ("consent_expires", "46568", "year-month-day, as in 2027-06-30 [bad-date]"),
        ("prompt", "#NAME?", "#NAME? is an error of the spreadsheet; mend the cell and export "
         "again [spreadsheet-error]"),
        ("seed", "#REF!", "[spreadsheet-error]"),
    ],
)  # fmt: skip
def test_a_cell_that_a_spreadsheet_changed_is_refused_with_what_to_write(
    column: str, cell: str, letter: str
) -> None:
    cells = {"subject": "a", "image": "a.png", "consent_basis": "contract", "prompt": "It rains."}
    cells |= {"variant": "tiny", column: cell}
    data = f"{';'.join(cells)}\r\n{';'.join(cells.values())}\r\n"
    (told,) = refusal(data.encode("utf-8-sig"))
    assert told.startswith("m.csv:2: ")
    assert told.endswith(letter)


def test_failed_cells_of_many_languages_are_known_and_prompts_are_not() -> None:
    failed = ("#NAME?", "#REF!", "#DIV/0!", "#N/A", "#BEZUG!", "#NOM?", "#¿NOMBRE?", "#ИМЯ?", "#NV")
    assert [cell for cell in failed if not is_error_value(cell)] == []
    for prompt in ("#sunset at the beach!", "#1", "A #NAME? sign", "=cmd()", "#"):
        assert not is_error_value(prompt)


def test_a_cell_beyond_the_named_columns_is_refused_when_something_stands_in_it() -> None:
    assert refusal(f"{HEADER};;\r\n{ROW};;note\r\n".encode()) == [
        "m.csv:2: the row has 9 cells, the header 7; quote cells that hold the delimiter "
        "[ragged-row]"
    ]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("Prompt", "prompt"), ("SEED", "seed"), ("promt", "prompt"), ("sede", "seed"),
        ("consent basis", "consent_basis"), ("consent\u00a0basis", "consent_basis"),
        ("guidance-text", "guidance_text"), ("\u201cvariant\u201d", "variant"),
    ],
)  # fmt: skip
def test_a_mistyped_column_gets_the_one_that_was_meant(name: str, meant: str) -> None:
    (told,) = refusal(f"subject;{name}\r\n".encode())
    assert told.startswith("m.csv:1: unknown column ")
    assert told.endswith(f", did you mean '{meant}'? [unknown-key]")


def test_a_column_of_another_purpose_gets_no_suggestion() -> None:
    (told,) = refusal(b"subject,budget_eur\r\n")
    assert told == "m.csv:1: unknown column 'budget_eur'; remove it [unknown-key]"


@pytest.mark.parametrize("data", [b"", b"\xef\xbb\xbf", b";;;\r\n", b"sep=;\r\n"])
def test_a_file_without_a_header_is_asked_for_one(data: bytes) -> None:
    (told,) = refusal(data)
    assert told.endswith("must name the columns, such as subject,image,prompt [header]")


def test_a_header_alone_is_no_manifest() -> None:
    assert refusal(f"{HEADER}\r\n".encode()) == [
        "m.csv:1: there are no rows below the header [no-rows]"
    ]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["bare", "marked"])
def test_wrong_byte_behind_a_byte_order_mark_is_told_with_its_line(
    tmp_path: Path, mark: bytes
) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes(mark + b"prompt,variant\nx,tiny\n\xff,tiny\n")
    with pytest.raises(RefusedError) as caught:
        read_manifest(path)
    (problem,) = caught.value.problems
    assert (problem.where, problem.rule) == (f"{path}:3", Rule.ENCODING)


def test_wrong_byte_right_behind_a_mark_and_a_nul_is_no_bug(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes(b"\xef\xbb\xbf\x00\xff")  # found by fuzzing
    with pytest.raises(RefusedError):
        read_manifest(path)
