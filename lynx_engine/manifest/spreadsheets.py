"""What spreadsheets make of a table, and the words that lead an author back.

Nothing is repaired: a decimal comma, a word of another language or a shortened number is refused,
with what to write instead where that is certain.
"""

from __future__ import annotations

import re

_FOLDED_TRUE = "true wahr vrai verdadero verdadeiro vero waar prawda sant истина 真 yes ja oui si 1"
_FOLDED_FALSE = "false falsch faux falso onwaar fałsz falskt ложь 假 no nein non 0"
_TRUTHS = {
    **dict.fromkeys(_FOLDED_TRUE.split(), "true"),
    **dict.fromkeys(_FOLDED_FALSE.split(), "false"),
}
WHOLE_COLUMNS = frozenset({"seed", "frames", "fps", "steps", "video_crf"})
NUMBER_COLUMNS = frozenset(
    {"guidance_text", "guidance_identity", "scale_identity", "scale_reference"}
)
_ERROR = re.compile(r"#[¡¿]?[^\W\d_a-z][^\Wa-z]*(?:/0)?[!?]|#N/A|#NV|#N/D|#Н/Д|#N/V")
_SEPARATOR = re.compile(r'"?sep=(.)"?', re.IGNORECASE)
_ENDED_WHOLE = re.compile(r"(-?[0-9]{1,40})[.,]0*")
_DECIMAL_COMMA = re.compile(r"([-+]?[0-9]{0,40}),([0-9]{1,40})")
_SHORTENED = re.compile(r"[-+]?[0-9]+(?:[.,][0-9]+)?[eE][-+]?[0-9]+")
_DOTTED_DATE = re.compile(r"([0-9]{1,2})\.([0-9]{1,2})\.([0-9]{4})")
_SLASHED_DATE = re.compile(r"([0-9]{1,2})/([0-9]{1,2})/([0-9]{4})")


def told_separator(line: str) -> str | None:
    """Return the delimiter that a first line such as `sep=;` tells, as Excel reads it."""
    match = _SEPARATOR.fullmatch(line)
    return match[1] if match else None


def is_error_value(cell: str) -> bool:
    """Return whether a cell is what a spreadsheet writes for a formula that failed."""
    return _ERROR.fullmatch(cell.strip()) is not None


def what_to_write(column: str, cell: object) -> str:
    """Return the end of a letter about a refused cell, as in `; write 5.0`, "" if nobody knows."""
    text = cell.strip() if isinstance(cell, str) else ""
    if column in WHOLE_COLUMNS and _SHORTENED.fullmatch(text):
        return "; the spreadsheet shortened it: give the column the format Number or Text"
    word = ""
    if column == "synthetic":
        word = _TRUTHS.get(text.casefold(), "")
    elif column == "consent_expires":
        word = _day(text)
    elif column in WHOLE_COLUMNS and (match := _ENDED_WHOLE.fullmatch(text)):
        word = match[1]
    elif column in NUMBER_COLUMNS and (match := _DECIMAL_COMMA.fullmatch(text)):
        word = f"{match[1] or 0}.{match[2]}"
    return f"; write {word}" if word else ""


def _day(text: str) -> str:
    """Return the day that was meant, where only one can be, else ""."""
    if match := _DOTTED_DATE.fullmatch(text):
        day, month, year = match.groups()
    elif match := _SLASHED_DATE.fullmatch(text):
        first, second, year = match.groups()
        if int(first) > 12:
            day, month = first, second
        elif int(second) > 12:
            month, day = first, second
        else:
            return ""
    else:
        return ""
    if not (1 <= int(month) <= 12 and 1 <= int(day) <= 31):
        return ""
    return f"{year}-{int(month):02}-{int(day):02}"
