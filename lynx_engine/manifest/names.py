"""Names that end up in file names: what is allowed, and labels made from free text.

It checks letters only; what a name stands for is the caller's business.
"""

from __future__ import annotations

import hashlib
import re

from lynx_engine.errors import Problem, RuleError
from lynx_engine.manifest_rules import Rule

MAX_PROMPT_CHARACTERS = 4000
HALF_PAIR = "holds half a surrogate pair; type the character anew"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# Device names that Windows reserves with any suffix (learn.microsoft.com, "Naming Files").
_RESERVED = frozenset(
    {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}
)
_WORD = re.compile(r"[a-z0-9]+")
_LABEL_WORDS = 5
_LABEL_CHARACTERS = 40
_LABEL_DIGEST_CHARACTERS = 6


def check_name(name: str) -> str:
    """Return `name` if it can be a label everywhere.

    Raises:
        RuleError: If it holds other characters, is too long, or is reserved by an operating
            system.
    """
    if _NAME.fullmatch(name) is None:
        raise RuleError(
            Rule.BAD_NAME,
            f"{name!r} cannot be a name; use 1 to 64 of the letters A-Z a-z, digits and . _ -, "
            "beginning with a letter or digit",
        )
    if name.partition(".")[0].lower() in _RESERVED:
        raise RuleError(Rule.RESERVED_NAME, f"{name!r} is reserved by Windows; choose another name")
    return name


def check_prompt(text: str) -> str:
    """Return `text`, unchanged, if a prompt can say it.

    Raises:
        RuleError: If it is empty, too long, or holds what no UTF-8 file or program argument can.
    """
    if not text.strip():
        raise RuleError(Rule.EMPTY_PROMPT, "the prompt is empty; write what the clip shows")
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise RuleError(
            Rule.TOO_LONG,
            f"the prompt has {len(text):,} characters; the limit is {MAX_PROMPT_CHARACTERS:,}",
        )
    return check_characters(text, what="the prompt")


def check_characters(text: str, *, what: str) -> str:
    """Return `text`, unchanged, if a UTF-8 file and a program argument can hold it.

    Raises:
        RuleError: If it holds a NUL character or half a surrogate pair.
    """
    if "\0" in text:
        raise RuleError(Rule.BAD_CHARACTER, f"{what} holds a NUL character; delete it")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RuleError(Rule.BAD_CHARACTER, f"{what} {HALF_PAIR}") from None
    return text


def label_of(text: str, *, otherwise: str) -> str:
    """Return an ASCII label for free text: its first words and 6 hex digits of its sha256.

    Text without a Latin letter or digit gets `otherwise` in place of the words.
    """
    words = _WORD.findall(text.lower())[:_LABEL_WORDS]
    slug = "-".join(words)[:_LABEL_CHARACTERS].rstrip("-") or otherwise
    return f"{slug}-{hashlib.sha256(text.encode()).hexdigest()[:_LABEL_DIGEST_CHARACTERS]}"


def campaign_of(stem: str) -> str:
    """Return a file's stem as campaign name: itself where it is a name, else a label of it."""
    try:
        return check_name(stem)
    except RuleError:
        return label_of(stem, otherwise="campaign")


class NameRegister:
    """Finds names that differ only in case, which some file systems cannot tell apart.

    Attributes:
        kind: The author's word for what is named.
    """

    def __init__(self, kind: str) -> None:
        """Start empty; `kind` is the author's word for what is named."""
        self.kind = kind
        self._seen: dict[str, tuple[str, str]] = {}

    def clash(self, name: str, where: str) -> Problem | None:
        """Take in `name`, or return the problem that an earlier one differs only in case."""
        first, first_where = self._seen.setdefault(name.casefold(), (name, where))
        if first == name:
            return None
        return Problem(
            where,
            f"{self.kind} '{name}' and '{first}' ({first_where}) differ only in upper and lower "
            "case, and some file systems cannot tell them apart; rename one",
            Rule.NAME_CLASH,
        )
