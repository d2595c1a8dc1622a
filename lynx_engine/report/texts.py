"""Makes foreign text safe to show: on a terminal, in a page, in a picture."""

from __future__ import annotations

import unicodedata

# Cc control, Cf format (bidi overrides, zero-width), Cs surrogates, Co private, Zl Zp line ends.
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
# Zero-width joiners hold emoji and Indic letters together; alone they move nothing.
_HARMLESS = frozenset({"\u200d", "\ufe0f"})


def visible(text: str, *, keep_newlines: bool = False) -> str:
    """Return `text` with every invisible or steering character spelled by its code point."""
    plain = text.replace("\n", "") if keep_newlines else text
    if plain.isascii() and plain.isprintable():
        return text  # nearly every text; what follows takes a hundred times as long
    return "".join(
        character
        if character in _HARMLESS
        or (keep_newlines and character == "\n")
        or unicodedata.category(character) not in _HIDDEN_CATEGORIES
        else f"\\u{ord(character):04x}"
        for character in text
    )
