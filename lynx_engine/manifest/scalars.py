"""What an unquoted YAML word means, and which words two YAML versions read differently.

YAML 1.1 reads `no` as false, `12:30` as 750 and `0777` as 511; YAML 1.2 reads text or another
number. Such a word becomes an `AmbiguousScalar`, which every setting refuses unless it says
otherwise, so that nobody's prompt silently turns into `False`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date

from lynx_engine.errors import RuleError
from lynx_engine.manifest_rules import Rule

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_OLD_BOOLEANS = {
    **{form(word): "true" for word in ("yes", "on") for form in (str.lower, str.title, str.upper)},
    **{form(word): "false" for word in ("no", "off") for form in (str.lower, str.title, str.upper)},
}
# 40 digits hold any number meant seriously; Python refuses to convert more than 4,300.
_WHOLE = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,39})")
_DECIMAL = re.compile(
    r"[-+]?(?:[0-9]{1,40}\.[0-9]{0,40}|\.[0-9]{1,40}|[0-9]{1,40}(?=[eE]))(?:[eE][-+]?[0-9]{1,4})?"
)
_DATE = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt ].*)?")
_CLOCK = re.compile(r"[-+]?[0-9]+(?::[0-5]?[0-9])+(?:\.[0-9]*)?")
_ODD_NUMBERS = (
    (re.compile(r"[-+]?0o?[0-7]+"), "an octal number"),
    (re.compile(r"[-+]?0[0-9]+"), "a number with a leading zero"),
    (re.compile(r"[-+]?0x[0-9a-fA-F_]+"), "a hexadecimal number"),
    (re.compile(r"[-+]?0b[01_]+"), "a binary number"),
    (re.compile(r"(?=.*[0-9])[-+]?[0-9.][0-9_.:]*_[0-9_.:]*(?:[eE][-+]?[0-9]+)?"), "a number"),
    (re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"), "a number without a value"),
)
# Text beginning with anything else is text in both versions: the quick way out.
_FIRST_CHARACTERS = frozenset("0123456789+-.~nNtTfFyYoO")


_SHOWN_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class AmbiguousScalar:
    """An unquoted word that YAML does not read as the text it looks like.

    Attributes:
        text: The word as written.
        read_as: What a YAML reader may take it for.
    """

    text: str
    read_as: str

    def __str__(self) -> str:
        """Return the word as written."""
        return self.text


Scalar = str | int | float | bool | AmbiguousScalar | None


def resolve_plain(text: str) -> Scalar:
    """Return the value of an unquoted scalar.

    Returns:
        None, a bool, an int, a float or a str where all YAML versions agree, else an
        `AmbiguousScalar`.
    """
    if text and text[0] not in _FIRST_CHARACTERS:
        return text
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if text in _OLD_BOOLEANS:
        return AmbiguousScalar(text, _OLD_BOOLEANS[text])
    return _number(text)


def _number(text: str) -> Scalar:
    if _WHOLE.fullmatch(text):
        return int(text)
    if _DECIMAL.fullmatch(text):
        return float(text)
    if _DATE.fullmatch(text):
        return AmbiguousScalar(text, "a date")
    if _CLOCK.fullmatch(text):
        return AmbiguousScalar(text, "a number in base 60")
    for pattern, read_as in _ODD_NUMBERS:
        if pattern.fullmatch(text):
            return AmbiguousScalar(text, read_as)
    return text


def shown(value: object) -> str:
    """Return a value as its author would recognise it, in one short line."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, AmbiguousScalar):
        return f"{value.text}, which YAML may read as {value.read_as}"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "a mapping"
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 1]}…"


def parse_date(text: str) -> date:
    """Read `2027-06-30`.

    Raises:
        RuleError: If `text` is not a day of the calendar written that way.
    """
    try:
        if len(text) != 10:
            raise ValueError
        return date.fromisoformat(text)
    except ValueError:
        raise RuleError(
            Rule.BAD_DATE, f"'{text}' is not a date; write year-month-day, as in 2027-06-30"
        ) from None
