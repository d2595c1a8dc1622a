"""One pass over a YAML file's parse events that refuses what is unsafe or doubtful.

Safe loaders are not safe from size: 386 bytes of aliases expand to 351 MB, 739 bytes of merge
keys take 6 s, and PyYAML's C composer overflows its stack on 30,000 brackets. Events are flat and
cheap, so everything is counted on them, one by one, before a value is built. The guard knows
YAML, not manifests.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import cast

import yaml

from lynx_engine.errors import Problem, RefusedError
from lynx_engine.manifest.scalars import resolve_plain
from lynx_engine.manifest_rules import Rule

MAX_DEPTH = 32
# 100,000 rows of nine settings are 1.9 million nodes.
MAX_NODES = 2_000_000
# A manifest needs no directive; libyaml holds each new one against all before it.
MAX_DIRECTIVES = 10
# As many names as there may be rows.
MAX_KEYS = 100_000
# Whoever has mended these sees what else there is.
MAX_PROBLEMS = 1000
_DIRECTIVE = re.compile("(?:^|[\r\n\x85\u2028\u2029])%")

_CORE = "tag:yaml.org,2002:"
TEXT_TAG = f"{_CORE}str"
_CORE_TAGS = frozenset(
    {None, "!", *(_CORE + name for name in ("str", "int", "float", "bool", "null", "seq", "map"))}
)


def guarded_events(text: str, path: str) -> Iterator[yaml.Event]:
    """Yield the parse events of one YAML document, each only after it was checked.

    Depth, aliases and documents end the pass at once; tags, merge keys and keys written twice are
    collected, and refused together at the end.

    Args:
        text: The whole file, without a byte order mark.
        path: The file as the user knows it, for messages.

    Raises:
        RefusedError: If the text is not YAML, or breaks a rule; names file and line.
    """
    guard = _Guard(path)
    guard.check_directives(text)
    # types-PyYAML leaves the stream untyped.
    events = cast("Iterator[yaml.Event]", yaml.parse(text, Loader=yaml.CSafeLoader))  # pyright: ignore[reportUnknownMemberType]
    try:
        for event in events:
            guard.check(event)
            yield event
    except yaml.YAMLError as error:
        guard.stop(
            Rule.NOT_YAML, _error_line(error, text), f"not valid YAML: {_error_words(error)}"
        )
    if guard.problems:
        raise RefusedError(guard.problems)


@dataclass(slots=True)
class _Collection:
    """A mapping or sequence whose end has not come yet."""

    keys: dict[str, int] | None
    anchor: str | None
    nodes_before: int
    expects_key: bool = field(init=False)

    def __post_init__(self) -> None:
        self.expects_key = self.keys is not None


class _Guard:
    """The state of the pass: open collections, node count, anchors, problems so far."""

    def __init__(self, path: str) -> None:
        self.problems: list[Problem] = []
        self._path = path
        self._open: list[_Collection] = []
        self._nodes = 0
        self._documents = 0
        self._anchor_nodes: dict[str, int] = {}

    def check_directives(self, text: str) -> None:
        """Refuse a text of many lines such as `%TAG`, before anything is parsed."""
        for number, found in enumerate(_DIRECTIVE.finditer(text), 1):
            if number > MAX_DIRECTIVES:
                line = len(text[: found.end()].splitlines())
                words = f"more than {MAX_DIRECTIVES} lines begin with %; a manifest needs none"
                self.stop(Rule.NOT_YAML, line, words)

    def check(self, event: yaml.Event) -> None:
        """Count and judge one event."""
        if isinstance(event, yaml.ScalarEvent):
            self._count(event, 1)
            self._check_tag(event)
            self._check_scalar(event)
            if event.anchor is not None:
                self._anchor_nodes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            self._count(event, 1)
            self._check_tag(event)
            self._begin(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._end()
        elif isinstance(event, yaml.AliasEvent):
            self._check_alias(event)
        elif isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                self.stop(
                    Rule.SEVERAL_DOCUMENTS,
                    _line(event),
                    "a second document begins here; keep one in each file",
                )

    def stop(self, rule: Rule, line: int, text: str) -> None:
        """Refuse at once, with what was found so far."""
        raise RefusedError([*self.problems, Problem(f"{self._path}:{line}", text, rule)]) from None

    def _note(self, rule: Rule, line: int, text: str) -> None:
        if len(self.problems) + 1 == MAX_PROBLEMS:
            self.stop(rule, line, f"{text}. The rest of the file was not read")
        self.problems.append(Problem(f"{self._path}:{line}", text, rule))

    def _count(self, event: yaml.Event, nodes: int) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            self.stop(
                Rule.TOO_MANY_VALUES,
                _line(event),
                f"more than {MAX_NODES:,} values, aliases counted as often as they are used; "
                "write a matrix, or split the file",
            )

    def _check_tag(self, event: yaml.NodeEvent) -> None:
        tag = getattr(event, "tag", None)
        if tag not in _CORE_TAGS:
            written = str(tag).replace(_CORE, "!!")
            self._note(
                Rule.TAG,
                _line(event),
                f"tag {written} is refused; a manifest holds plain values only",
            )

    def _check_scalar(self, event: yaml.ScalarEvent) -> None:
        parent = self._take_place()
        if parent is None:
            return
        key, line, plain = event.value, _line(event), event.implicit[0]
        if plain and key == "<<":
            self._note(
                Rule.MERGE_KEY,
                line,
                "merge keys (<<) are refused; write shared settings once under defaults",
            )
        elif not key:
            self._note(Rule.BAD_KEY, line, "a key is missing before the colon; write it")
        elif plain and not _is_text(key):
            self._note(
                Rule.AMBIGUOUS_SCALAR,
                line,
                f'the key {key} is not read as text by YAML; quote it: "{key}"',
            )
        elif key in parent:
            self._note(
                Rule.DUPLICATE_KEY,
                line,
                f"'{key}' is written twice, here and at line {parent[key]}; delete one",
            )
        else:
            parent[key] = line
            if len(parent) > MAX_KEYS:
                text = f"more than {MAX_KEYS:,} keys in one mapping; split the file"
                self.stop(Rule.TOO_MANY_VALUES, line, text)

    def _begin(self, event: yaml.CollectionStartEvent) -> None:
        if self._take_place() is not None:
            self.stop(
                Rule.BAD_KEY, _line(event), "a key must be a word; this one is a list or a mapping"
            )
        if len(self._open) >= MAX_DEPTH:
            self.stop(
                Rule.TOO_DEEP,
                _line(event),
                f"nested deeper than {MAX_DEPTH} levels; a manifest needs six",
            )
        keys: dict[str, int] | None = {} if isinstance(event, yaml.MappingStartEvent) else None
        self._open.append(_Collection(keys, event.anchor, self._nodes - 1))

    def _end(self) -> None:
        closed = self._open.pop()
        if closed.anchor is not None:
            self._anchor_nodes[closed.anchor] = self._nodes - closed.nodes_before

    def _check_alias(self, event: yaml.AliasEvent) -> None:
        name = event.anchor
        if self._take_place() is not None:
            self.stop(Rule.BAD_KEY, _line(event), f"a key must be a word; *{name} is an alias")
        if any(collection.anchor == name for collection in self._open):
            self.stop(
                Rule.ALIAS,
                _line(event),
                f"*{name} stands inside what it repeats; write the value out",
            )
        if name not in self._anchor_nodes:
            self.stop(
                Rule.ALIAS,
                _line(event),
                f"*{name} repeats nothing; write &{name} before it, or a value",
            )
        self._count(event, self._anchor_nodes[name])

    def _take_place(self) -> dict[str, int] | None:
        """Move on within the open collection; return its keys if a key stands here."""
        if not self._open:
            return None
        parent = self._open[-1]
        if parent.keys is None:
            return None
        parent.expects_key = not parent.expects_key
        return None if parent.expects_key else parent.keys


@lru_cache(maxsize=1024)
def _is_text(key: str) -> bool:
    return isinstance(resolve_plain(key), str)


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1


def _error_line(error: yaml.YAMLError, text: str) -> int:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        if mark is not None:
            return mark.line + 1
    return text.count("\n", 0, getattr(error, "position", 0) or 0) + 1


def _error_words(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError):
        return ", ".join(part for part in (error.context, error.problem) if part)
    return str(getattr(error, "reason", error))
