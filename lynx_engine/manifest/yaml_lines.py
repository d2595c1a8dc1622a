"""Builds plain values from guarded YAML events, and remembers the line of every key and item.

The values go to pydantic, the lines stay beside them for messages. It knows nothing of manifests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import yaml

from lynx_engine.errors import Problem, RefusedError
from lynx_engine.manifest.guard import TEXT_TAG, guarded_events
from lynx_engine.manifest.scalars import resolve_plain
from lynx_engine.manifest_rules import Rule


@dataclass(slots=True)
class MappingLines:
    """Where a mapping begins, and the line of each key and of what stands under it."""

    line: int
    keys: dict[str, int] = field(default_factory=dict[str, int])
    inner: dict[str, Lines] = field(default_factory=dict[str, "Lines"])


@dataclass(slots=True)
class SequenceLines:
    """Where a sequence begins, and the lines of its items."""

    line: int
    inner: list[Lines] = field(default_factory=list["Lines"])


Lines = int | MappingLines | SequenceLines
"""Lines of a value; a scalar has just one."""


@dataclass(frozen=True, slots=True)
class LinedValue:
    """A value of dicts, lists and scalars, and the lines it came from."""

    value: object
    lines: Lines


def load_yaml(text: str, path: str) -> LinedValue:
    """Read one YAML document.

    Args:
        text: The whole file, without a byte order mark.
        path: The file as the user knows it, for messages.

    Raises:
        RefusedError: If the guard refuses the text, or there is no value in it.
    """
    builder = _Builder()
    for event in guarded_events(text, path):
        builder.take(event)
    if builder.root is None:
        text = "the file is empty; it needs subjects, prompts and rows"
        raise RefusedError([Problem(f"{path}:1", text, Rule.NO_ROWS)])
    return builder.root


def line_at(lines: Lines, place: Sequence[str | int]) -> int:
    """Return the line of the value at `place`, or of the nearest one around it that exists.

    A value in a mapping has the line of its key.
    """
    line = lines if isinstance(lines, int) else lines.line
    for step in place:
        if isinstance(lines, MappingLines) and step in lines.keys:
            name = str(step)
            line, lines = lines.keys[name], lines.inner[name]
        elif isinstance(lines, SequenceLines) and isinstance(step, int) and step < len(lines.inner):
            lines = lines.inner[step]
            line = lines if isinstance(lines, int) else lines.line
        else:
            break
    return line


def lines_of(lines: Lines, place: Sequence[str | int]) -> Lines:
    """Return the lines of the value at `place`.

    Raises:
        LookupError: If there is no value at `place`.
    """
    for step in place:
        if isinstance(lines, MappingLines):
            lines = lines.inner[str(step)]
        elif isinstance(lines, SequenceLines):
            lines = lines.inner[int(step)]
        else:
            raise LookupError(f"a scalar has nothing inside: {step!r}")
    return lines


class _Builder:
    """Stacks open collections; each finished value goes into the one below it."""

    def __init__(self) -> None:
        self.root: LinedValue | None = None
        self._anchors: dict[str, LinedValue] = {}
        self._open: list[tuple[dict[str, object] | list[object], Lines, str | None]] = []
        self._key: list[str | None] = []

    def take(self, event: yaml.Event) -> None:
        """Add one event to what is built."""
        if isinstance(event, yaml.ScalarEvent):
            self._take_scalar(event)
        elif isinstance(event, yaml.MappingStartEvent):
            self._begin({}, MappingLines(event.start_mark.line + 1), event.anchor)
        elif isinstance(event, yaml.SequenceStartEvent):
            self._begin([], SequenceLines(event.start_mark.line + 1), event.anchor)
        elif isinstance(event, yaml.CollectionEndEvent):
            value, lines, anchor = self._open.pop()
            self._key.pop()
            self._place(value, lines, anchor)
        elif isinstance(event, yaml.AliasEvent):
            known = self._anchors[event.anchor]
            self._place(known.value, known.lines, None)

    def _take_scalar(self, event: yaml.ScalarEvent) -> None:
        line = event.start_mark.line + 1
        if self._open and self._key[-1] is None:
            parent_lines = self._open[-1][1]
            if isinstance(parent_lines, MappingLines):
                self._key[-1] = event.value
                if event.anchor is not None:
                    self._anchors[event.anchor] = LinedValue(event.value, line)
                parent_lines.keys[event.value] = line
                return
        quoted = not event.implicit[0] and event.tag in {None, "!", TEXT_TAG}
        value = event.value if quoted else resolve_plain(event.value)
        self._place(value, line, event.anchor)

    def _begin(
        self, value: dict[str, object] | list[object], lines: Lines, anchor: str | None
    ) -> None:
        self._open.append((value, lines, anchor))
        self._key.append(None)

    def _place(self, value: object, lines: Lines, anchor: str | None) -> None:
        if anchor is not None:
            self._anchors[anchor] = LinedValue(value, lines)
        if not self._open:
            self.root = LinedValue(value, lines)
            return
        parent, parent_lines, _ = self._open[-1]
        if isinstance(parent, list):
            parent.append(value)
            if isinstance(parent_lines, SequenceLines):
                parent_lines.inner.append(lines)
            return
        key = self._key[-1] or ""
        self._key[-1] = None
        parent[key] = value
        if isinstance(parent_lines, MappingLines):
            parent_lines.inner[key] = lines
