"""What a failing program or process said last, cut so that a record can hold it, secrets left out.

It is for a person who looks for the cause: paths stay, and so does every character, as whoever
shows a text spells out what could steer a terminal or a page.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

LINES = 20
CHARACTERS = 2000

_READ_BYTES = 16_384
_CRASH = "Fatal Python error:"  # as faulthandler begins
_CRASH_CHARACTERS = 200
_SECRET_NAMES = re.compile(
    r"TOKEN|SECRET|PASSW|PASSPHRASE|CREDENTIAL|AUTH|_KEY$|^KEY$|APIKEY|COOKIE|PRIVATE|DSN",
    re.IGNORECASE,
)
_SHORTEST_SECRET = 6
# Scheme, then all up to the last @ before the host ends, as browsers read it (WHATWG URL).
_USERINFO = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^\s/?#]*@")
_HIDDEN = "***"


def last_lines(text: str) -> str:
    """Return the last 20 lines of a text, 2,000 characters of them at most.

    Of a crash, the first line is what the interpreter calls it.
    What stands in an environment variable whose name speaks of a secret, and the name and password
    of an address, become `***`.
    """
    # Before it is cut: a secret that is cut through would not be known again.
    lines = without_secrets(text[-_READ_BYTES:]).strip().splitlines()
    kept = "\n".join(lines[-LINES:])[-CHARACTERS:]
    # The stacks of all threads follow it, and their end alone does not say what happened.
    crash = next((line for line in reversed(lines) if line.startswith(_CRASH)), "")[
        :_CRASH_CHARACTERS
    ]
    if not crash or crash in kept:
        return kept
    lines = "\n".join(lines[1 - LINES :])
    return f"{crash}\n{lines[len(crash) + 1 - CHARACTERS :]}"


def last_lines_of(path: Path) -> str:
    """Return the last lines of a file that may be long and still be written to; "" without one."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - _READ_BYTES))
            return last_lines(file.read(_READ_BYTES).decode(errors="replace"))
    except OSError:
        return ""


def without_secrets(text: str) -> str:
    """Return a text in which `***` stands for secrets, as `last_lines` knows them."""
    values = {
        value
        for name, value in os.environ.items()
        if len(value) >= _SHORTEST_SECRET and _SECRET_NAMES.search(name)
    }
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, _HIDDEN)
    return _USERINFO.sub(rf"\1{_HIDDEN}@", text)
