"""Unquoted YAML words: where the YAML versions agree, and where a word is refused."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lynx_engine.manifest.scalars import AmbiguousScalar, parse_date, resolve_plain


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("", None), ("~", None), ("null", None), ("true", True), ("FALSE", False),
        ("0", 0), ("42", 42), ("-3", -3), ("9223372036854775807", 2**63 - 1),
        ("1.5", 1.5), (".5", 0.5), ("2.", 2.0), ("1e3", 1000.0),
        ("832x480", "832x480"), ("1..5", "1..5"), ("none", "none"), ("A dog", "A dog"),
        ("host-1", "host-1"), ("y", "y"), ("9" * 41, "9" * 41), ("+", "+"), ("-", "-"),
    ],
)  # fmt: skip
def test_words_with_one_meaning_have_it(word: str, value: object) -> None:
    found = resolve_plain(word)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("word", "read_as"),
    [
        ("no", "false"), ("Yes", "true"), ("ON", "true"), ("off", "false"),
        ("0777", "an octal number"), ("0o17", "an octal number"),
        ("089", "a number with a leading zero"), ("0x1F", "a hexadecimal number"),
        ("0b101", "a binary number"), ("1_000", "a number"), ("12:30", "a number in base 60"),
        ("2026-11-22", "a date"), ("2026-11-22 10:00:00", "a date"),
        (".nan", "a number without a value"),
    ],
)  # fmt: skip
def test_words_that_yaml_versions_read_differently_are_ambiguous(word: str, read_as: str) -> None:
    assert resolve_plain(word) == AmbiguousScalar(word, read_as)


@given(st.text(alphabet="0123456789+-._:xobeEnoyfatrulNO~ ", max_size=12))
def test_a_word_that_pyyaml_reads_as_something_else_is_never_taken_for_text(word: str) -> None:
    word = word.strip()
    # The independent reading: PyYAML's own YAML 1.1 resolver.
    resolver = yaml.resolver.Resolver()
    tag = resolver.resolve(yaml.ScalarNode, word, (True, False))
    found = resolve_plain(word)
    if isinstance(found, str) and not word.isdigit():
        assert (
            tag
            in {
                "tag:yaml.org,2002:str",
                "tag:yaml.org,2002:value",
                "tag:yaml.org,2002:merge",
            }
            or len(word) > 40
        )


def test_dates_are_days_of_the_calendar_written_in_full() -> None:
    assert parse_date("2027-06-30").isoformat() == "2027-06-30"
    for wrong in ("2027-6-30", "30.06.2027", "2027-02-30", "20270630", "soon"):
        with pytest.raises(ValueError, match="is not a date; write year-month-day"):
            parse_date(wrong)
