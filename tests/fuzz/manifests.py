"""Manifests that nobody should have written: made up, and mutated from good ones.

Hypothesis draws every choice, so that what breaks is shrunk to its smallest form.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]
CORPUS = Path(__file__).parent / "corpus"

Manifest = tuple[str, bytes]
"""A suffix and a content."""

PHOTO = "one.png"

nasty_texts = st.sampled_from(
    [
        "",
        " ",
        "no",
        "~",
        "12:30",
        "0777",
        "2026-11-22",
        "<<",
        "!!python/name:os.system",
        "*a",
        "&a x",
        "../../etc/passwd",
        "/dev/zero",
        "https://example.org/a.png",
        "a" * 65,
        "con",
        "nul.txt",
        "\u202eabc",
        "\u200b",
        "\ufeff",
        "\x1b[31m",
        "[/red]",
        "=cmd()",
        "一只狗",
        "👩‍👩‍👧",
        "{{ x }}",
        "%s{0}",
        "1e999",
        "-1",
        "9" * 400,
        "\x85",
        "\u2028",
        "x" * 4001,
    ]
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=20),
    nasty_texts,
    st.dates(),
)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)


def spoiled(good: st.SearchStrategy[Any], *, one_in: int = 25) -> st.SearchStrategy[Any]:
    """Give a good value mostly, and anything at all once in a while."""
    return st.integers(1, one_in).flatmap(lambda n: anything if n == 1 else good)


SETTINGS: Mapping[str, st.SearchStrategy[Any]] = {
    "variant": st.sampled_from(["tiny", "tiny_lite", "sleeper", "lynx_full", "wan", "tinny"]),
    "size": st.sampled_from(["64x64", "60x64", "832x480", "0x0", "64x", "99999x99999"]),
    "frames": st.sampled_from([1, 9, 80, 81, 0, 100001]),
    "fps": st.integers(-1, 130),
    "steps": st.integers(0, 1001),
    "guidance_text": st.floats(-1, 101),
    "guidance_identity": st.floats(-1, 101),
    "scale_identity": st.floats(-1, 101),
    "negative_prompt": st.text(max_size=8),
    "precision": st.sampled_from(["float32", "bfloat16", "fp8"]),
    "numerics": st.sampled_from(["normal", "strict"]),
    "memory": st.sampled_from(["auto", "low", "no"]),
    "speed": st.sampled_from(["exact", "cache", "distilled"]),
    "safety": st.sampled_from(["on", "acknowledged-off", True]),
    "label": st.sampled_from(["none", "eu", "cn"]),
    "seed": st.integers(-1, 2**63),
}
seeds = st.one_of(
    st.integers(0, 9),
    st.sampled_from(["1..5", "5..1", "1..1000000", "1.."]),
    st.lists(st.integers(0, 5)),
)
names = st.sampled_from(["host", "guest", "robo", "hots", "Host", "con", "my host"])
prompts = st.sampled_from(["wave", "beach", "beach-1", "beech", ""])


def some(keys: Mapping[str, st.SearchStrategy[Any]], *, most: int = 4) -> st.SearchStrategy[Any]:
    """Give a mapping of a few of `keys`, and now and then one that is none of them."""
    optional = {key: spoiled(value) for key, value in keys.items()}
    pairs = st.sampled_from(sorted(optional)).flatmap(
        lambda key: st.tuples(st.just(key), optional[key])
    )
    stray = st.tuples(st.one_of(st.text(max_size=5), nasty_texts), scalars)
    picked = st.lists(
        st.integers(1, 12).flatmap(lambda n: stray if n == 1 else pairs), max_size=most
    )
    return picked.map(dict)


subjects = some(
    {
        "image": st.sampled_from([PHOTO, "nowhere.png", "../one.png", "/dev/zero", [PHOTO, PHOTO]]),
        "face": st.sampled_from(["largest", {"index": 0}, {"index": -1}]),
        "synthetic": st.booleans(),
        "consent": some({"basis": st.just("contract"), "expires": st.dates()}),
    }
)
HOST = {"host": {"image": PHOTO, "synthetic": True}}
sound_rows = st.fixed_dictionaries(
    {"subject": st.just("host"), "text": st.sampled_from(["A person waves.", "一只狗", "[/red]"])},
    optional={
        "variant": st.sampled_from(["tiny", "tiny_lite"]),
        "seed": st.integers(0, 2**63 - 1),
        "steps": st.integers(1, 1000),
        "fps": st.integers(1, 120),
        "guidance_text": st.floats(0, 100),
    },
)
rows = st.one_of(
    sound_rows,
    some({"subject": names, "prompt": prompts, "text": st.text(max_size=9), **SETTINGS}, most=6),
)
matrices = some(
    {
        "subject": st.lists(names, max_size=3),
        "prompt": st.lists(prompts, max_size=3),
        "text": st.lists(st.text(max_size=4), max_size=2),
        "seed": seeds,
        "variant": st.lists(SETTINGS["variant"], max_size=3),
        "zip": st.sampled_from([["subject", "prompt"], ["seed", "seed"], []]),
        "exclude": st.lists(some({"subject": names, "seed": st.integers(0, 9)}), max_size=2),
    },
    most=6,
)
sound_documents = st.fixed_dictionaries(
    {"defaults": st.just({"variant": "tiny"}), "subjects": st.just(HOST)},
    optional={"campaign": st.just("autumn")},
).flatmap(
    lambda head: st.lists(spoiled(sound_rows), min_size=1, max_size=4, unique_by=repr).map(
        lambda listed: {**head, "rows": listed}
    )
)
documents = sound_documents | st.fixed_dictionaries(
    {
        "subjects": spoiled(st.dictionaries(names, spoiled(subjects), max_size=3)),
        "rows": spoiled(st.lists(spoiled(rows), max_size=4)),
    },
    optional={
        "campaign": spoiled(names),
        "defaults": spoiled(some(SETTINGS)),
        "prompts": spoiled(
            st.dictionaries(prompts, st.one_of(st.text(max_size=9), some({"file": nasty_texts})))
        ),
        "matrix": spoiled(st.lists(spoiled(matrices), max_size=2)),
        "identity": spoiled(some({"min_score": st.floats(), "attempts": st.integers(-1, 101)})),
    },
)
table_rows = some(
    {
        "subject": names,
        "image": st.just(PHOTO),
        "consent_basis": st.just("contract"),
        "consent_expires": st.sampled_from(["2027-06-30", "30.06.2027", "2020-01-01"]),
        "synthetic": st.sampled_from(["true", "WAHR", True]),
        "prompt": st.text(max_size=9),
        "prompt_file": nasty_texts,
        "loras": nasty_texts,
        "video_crf": st.integers(-1, 60),
        **SETTINGS,
    },
    most=8,
)
sound_table_rows = sound_rows.map(
    lambda row: {
        "variant": "tiny",
        **row,
        "prompt": row["text"],
        "image": PHOTO,
        "synthetic": True,
    }
).map(lambda row: {key: value for key, value in row.items() if key != "text"})


@st.composite
def made_up(draw: Callable[[st.SearchStrategy[Any]], Any]) -> Manifest:
    """Give a manifest of any format, from its grammar."""
    kind = draw(st.sampled_from([".yaml", ".csv", ".jsonl"]))
    if kind == ".yaml":
        flow = draw(st.sampled_from([True, False, None]))
        text = yaml.safe_dump(draw(documents), allow_unicode=True, default_flow_style=flow)
        return kind, text.encode("utf-8", "surrogatepass")
    listed = draw(st.lists(table_rows | sound_table_rows, max_size=5))
    if kind == ".jsonl":
        lines = [json.dumps(row, default=str, ensure_ascii=draw(st.booleans())) for row in listed]
        return kind, "\n".join(lines).encode("utf-8", "surrogatepass")
    columns = list(dict.fromkeys(key for row in listed for key in row))
    file = io.StringIO()
    writer = csv.writer(file, delimiter=draw(st.sampled_from(",;\t|")), escapechar="\\")
    writer.writerow(columns)
    cells = [[_cell(row.get(column, "")) for column in columns] for row in listed]
    writer.writerows(cells)
    return kind, file.getvalue().encode("utf-8", "surrogatepass")


def _cell(value: object) -> object:
    return str(value).lower() if isinstance(value, bool) else value


def good_manifests() -> list[Manifest]:
    """Return the manifests this repository ships and keeps, to be mutated."""
    places = [*(ROOT / "manifests").iterdir(), *CORPUS.iterdir()]
    kept = [path for path in sorted(places) if path.suffix in {".yaml", ".csv", ".jsonl"}]
    return [(path.suffix, path.read_bytes()) for path in kept]


TOKENS = [
    *(b"\0", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\r", b"\r\n", b"\n\n", b"\t", b'"', b"'"),
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b": ",
        b"- ",
        b"*x",
        b"&x ",
        b"<<: ",
        b"!!set ",
        b"--- ",
        b"%TAG ",
        b"? ",
    ),
    *(b"#", b"|", b">", b"@", b"`", b",", b";", b"=", b"\\", b"0x", b"1e9", b"-", b"..", b"..."),
    *(
        "é".encode(),
        "\u202e".encode(),
        "🧛".encode(),
        b"null",
        b"true",
        b"nan",
        b"9" * 50,
        b"[" * 40,
    ),
]


@st.composite
def mutated(draw: Callable[[st.SearchStrategy[Any]], Any]) -> Manifest:
    """Give a manifest that was good until bytes or lines of it were cut, doubled or put in."""
    kind, content = draw(st.sampled_from(good_manifests()))
    for _ in range(draw(st.integers(1, 5))):
        lines = content.split(b"\n")
        at = draw(st.integers(0, max(0, len(content) - 1)))
        line = draw(st.integers(0, len(lines) - 1))
        what = draw(st.sampled_from(["put", "cut", "byte", "line", "double", "move", "end"]))
        if what == "put":
            content = content[:at] + draw(st.sampled_from(TOKENS)) + content[at:]
        elif what == "cut":
            content = content[:at] + content[at + draw(st.integers(1, 40)) :]
        elif what == "byte":
            content = content[:at] + bytes([draw(st.integers(0, 255))]) + content[at + 1 :]
        elif what == "end":
            content = content[:at]
        else:
            other = draw(st.integers(0, len(lines) - 1))
            moved = lines[line] if what == "double" else lines.pop(line)
            if what != "line":
                lines.insert(other, moved)
            content = b"\n".join(lines)
    return kind, content


def large() -> dict[str, Manifest]:
    """Return what is too large to be kept as a file: name -> manifest."""
    head = "defaults: {variant: sleeper}\n"
    return {
        "deep-brackets": (".yaml", b"rows: " + b"[" * 30_000),
        "deep-braces": (".yaml", b"a: {" * 30_000),
        "million-digits": (".yaml", f"{head}rows: [{{text: x, seed: {'9' * 10**6}}}]".encode()),
        "million-digits-json": (".jsonl", b'{"prompt": "x", "seed": ' + b"9" * 10**6 + b"}"),
        "one-long-line": (".csv", b"prompt,variant\n" + b"x" * (8 << 20)),
        "over-8-mb": (".yaml", b"#" * ((8 << 20) + 1)),
        "100000-rows": (
            ".csv",
            b"prompt,seed,variant\n"
            + b"".join(b"sleep=1,%d,sleeper\n" % n for n in range(100_000)),
        ),
        "100001-rows": (
            ".csv",
            b"prompt,seed,variant\n"
            + b"".join(b"sleep=1,%d,sleeper\n" % n for n in range(100_001)),
        ),
        "100000-wrong-rows": (".csv", b"prompt,seed,variant\n" + b"sleep=1,x,sleeper\n" * 100_000),
        "100000-products": (".yaml", f"{head}matrix: [{{text: x, seed: 1..100000}}]".encode()),
        "10^18-products": (
            ".yaml",
            f"{head}matrix: [{{text: x, seed: 1..1000000000000000000}}]".encode(),
        ),
        "million-columns": (".csv", b"," * 10**6),
        "million-quotes": (".csv", b"prompt\n" + b'"' * 10**6),
        "many-aliases": (".yaml", b"a: &a [x]\nb: [" + b"*a," * 200_000 + b"]"),
        "many-keys": (".yaml", b"".join(b"k%d: 1\n" % n for n in range(100_000))),
        "one-key-8-mb": (".yaml", b"a: 1\n" * 1_600_000),
        "directives": (
            ".yaml",
            b"".join(b"%%TAG !a%d! x\n" % n for n in range(300_000)) + b"---\nrows: []\n",
        ),
        "keys-of-a-row": (
            ".yaml",
            b"rows: [{" + b",".join(b"k%d: 1" % n for n in range(300_000)) + b"}]",
        ),
        "subjects-of-one-photo": (
            ".yaml",
            b"subjects: {"
            + b",".join(b"s%d: {image: one.png, synthetic: true}" % n for n in range(20_000))
            + b"}\nrows: [{text: sleep=1, variant: sleeper}]\n",
        ),
        "unknown-subjects": (
            ".yaml",
            b"rows:\n"
            + b"".join(
                b"- {subject: x%d, text: sleep=1, variant: sleeper}\n" % n for n in range(100_000)
            ),
        ),
        "columns-of-a-header": (".csv", b",".join(b"c%d" % n for n in range(700_000)) + b"\n"),
        "keys-of-a-line": (
            ".jsonl",
            b"{" + b",".join(b'"k%d": 1' % n for n in range(400_000)) + b"}",
        ),
        "deep-json": (".jsonl", b"[" * 100_000),
    }
