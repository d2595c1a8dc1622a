"""Turns the rows and products of a YAML manifest into single rows.

Names are looked up here and products are counted before they are expanded. It reads prompt files
and nothing else; what a variant makes of a setting is planning's business.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lynx_engine.errors import Letter, RuleError, nearest
from lynx_engine.manifest.files import read_prompt_text
from lynx_engine.manifest.matrix_schema import AXES, SINGLE_KEYS, Exclusion, MatrixEntry
from lynx_engine.manifest.names import check_prompt, label_of
from lynx_engine.manifest.schema import PromptEntry, RenderSettings, RowEntry, written_settings
from lynx_engine.manifest.values import Prompt, Row, WrittenSettings
from lynx_engine.manifest_rules import Rule

MAX_ROWS = 100_000
# About a second's worth; then wrong names are told without the nearest right one.
_MAX_COMPARED = 100_000
_NAMING = ("subject", "prompt", "text")


class Fault(NamedTuple):
    """A letter to the author, and the key to blame: "" when it is the whole entry."""

    key: str
    rule: Rule
    text: str


class ExpansionError(ValueError):
    """A row or matrix that cannot become rows.

    Attributes:
        faults: Every reason, at least one.
    """

    def __init__(self, *faults: Fault) -> None:
        """Give all `faults` at once."""
        self.faults = faults
        super().__init__("\n".join(fault.text for fault in faults))


def too_many_rows(rows: int) -> Letter:
    """Return the letter for a manifest of `rows` rows, more than the limit."""
    return Letter(
        Rule.TOO_MANY_ROWS,
        f"{rows:,} rows with those before; the limit is {MAX_ROWS:,} in one manifest. Split it, or "
        "narrow the lists",
    )


def prompts_of(name: str, entry: PromptEntry, folder: Path) -> tuple[Prompt, ...]:
    """Return the prompts one name stands for: its text, its file, or its file's lines.

    Lines are named `name-1`, `name-2`, ... ; blank lines are skipped and not counted.

    Raises:
        RuleError: If the file cannot be used or a text is no prompt.
    """
    if entry.text is not None:
        return (Prompt(name, check_prompt(entry.text)),)
    written = entry.file or ""
    text = read_prompt_text(folder, written)
    if entry.whole:
        return (Prompt(name, check_prompt(text.strip())),)
    # Only line feeds end a line: a prompt may hold any other character.
    lines = [line.strip() for line in text.split("\n")]
    texts = [line for line in lines if line]
    if not texts:
        raise RuleError(
            Rule.EMPTY_PROMPT, f"prompt file '{written}' is empty; write one prompt a line"
        )
    return tuple(Prompt(f"{name}-{n}", check_prompt(line)) for n, line in enumerate(texts, 1))


@dataclass(frozen=True, slots=True)
class Names:
    """What the rows of a manifest may refer to.

    Attributes:
        subjects: Names of sound subjects.
        prompts: Name -> prompts; a file's name stands for all its lines.
        broken_subjects: Names whose definition was refused; rows naming them are left out in
            silence, the definition having its own letter.
        broken_prompts: Likewise.
    """

    subjects: frozenset[str]
    prompts: Mapping[str, tuple[Prompt, ...]]
    broken_subjects: frozenset[str] = frozenset()
    broken_prompts: frozenset[str] = frozenset()

    def knows_subject(self, name: str) -> bool:
        """Return whether a subject of that name was written, sound or not."""
        return name in self.subjects or name in self.broken_subjects

    def knows_prompt(self, name: str) -> bool:
        """Return whether a prompt of that name was written, or may be a line of a broken file."""
        return (
            name in self.prompts
            or name in self.broken_prompts
            or name.rpartition("-")[0] in self.broken_prompts
        )


@dataclass(frozen=True, slots=True)
class Entry:
    """Where an entry of `rows` or `matrix` stands, and its keys in the author's order."""

    where: str
    key_lines: Mapping[str, int]
    keys: tuple[str, ...]


@dataclass(slots=True)
class Expander:
    """Expands the entries of one manifest and counts their rows together.

    Attributes:
        names: What rows may refer to.
        folder: The manifest's folder.
        default_seed: Seed of rows that write none.
        rows: Rows counted so far, those refused included.
        compared: Names compared so far to find the nearest.
    """

    names: Names
    folder: Path
    default_seed: int
    rows: int = field(default=0)
    compared: int = field(default=0)

    def expand_row(self, entry: RowEntry, at: Entry) -> list[Row]:
        """Return one row, or one for each line of the prompt file it names.

        Raises:
            ExpansionError: If it names what is not there, or no prompt, or two.
        """
        written = {key: [value] for key in _NAMING if (value := getattr(entry, key)) is not None}
        _refuse([*_prompt_fault(written, "a row", "a name"), *self._naming_faults(written)])
        prompts = self._prompts(entry.prompt, entry.text)
        self._count(len(prompts))
        if entry.subject in self.names.broken_subjects:
            return []
        seed = self.default_seed if entry.seed is None else entry.seed
        settings = written_settings(entry, self.folder)
        return [
            Row(at.where, entry.subject, prompt, seed, settings, at.key_lines) for prompt in prompts
        ]

    def expand_matrix(self, entry: MatrixEntry, at: Entry) -> list[Row]:
        """Return the rows of a product, the first written key changing slowest.

        Raises:
            ExpansionError: If it names what is not there, its lists do not fit together, it has
                too many rows, or an exclusion drops nothing.
        """
        written = [key for key in at.keys if key in entry.model_fields_set and key in AXES]
        values = {key: getattr(entry, key) for key in written if key not in SINGLE_KEYS}
        axes = {key: listed for key, listed in values.items() if listed is not None}
        dropped = [_written_values(exclusion) for exclusion in entry.exclude or []]
        _refuse(
            [
                *_prompt_fault(axes, "a matrix", "names"),
                *self._naming_faults(axes),
                *_zip_faults(axes, entry.zip or []),
                *_exclusion_faults(axes, dropped),
            ]
        )
        factors = self._factors(axes, entry.zip or [])
        self._count(math.prod(len(factor) for factor in factors))
        exclusions = _Exclusions(dropped, axes.get("seed", ()))
        rows = list(self._rows(exclusions.kept(factors), entry, at))
        if not self.names.broken_prompts:
            _refuse(
                Fault(
                    "exclude", Rule.EXCLUDE, f"exclusion {number} drops nothing; mend or remove it"
                )
                for number in exclusions.unused()
            )
        return rows

    def _naming_faults(self, written: Mapping[str, Sequence[str]]) -> Iterator[Fault]:
        """Yield what is wrong with the subjects, prompts and texts of an entry."""
        names = self.names
        for name in written.get("subject", ()):
            if not names.knows_subject(name):
                advice = self._nearest(name, names.subjects | names.broken_subjects)
                advice = advice or "; define it under subjects"
                yield Fault(
                    "subject", Rule.UNKNOWN_SUBJECT, f"there is no subject '{name}'{advice}"
                )
        for name in written.get("prompt", ()):
            if not names.knows_prompt(name):
                advice = self._nearest(name, names.prompts.keys() | names.broken_prompts)
                advice = advice or "; define it under prompts, or write text: instead"
                yield Fault("prompt", Rule.UNKNOWN_PROMPT, f"there is no prompt '{name}'{advice}")
        for text in written.get("text", ()):
            try:
                check_prompt(text)
            except RuleError as error:
                yield Fault("text", *error.letter)

    def _nearest(self, name: str, known: Collection[str]) -> str:
        self.compared += len(known)
        return nearest(name, sorted(known)) if self.compared <= _MAX_COMPARED else ""

    def _count(self, rows: int) -> None:
        self.rows += rows
        if self.rows > MAX_ROWS:
            raise ExpansionError(Fault("", *too_many_rows(self.rows)))

    def _prompts(self, name: str | None, text: str | None) -> tuple[Prompt, ...]:
        """Return the one prompt of a text, or those of a name: none if it was refused."""
        if text is not None:
            return (Prompt(label_of(text, otherwise="prompt"), text),)
        return self.names.prompts.get(name or "", ())

    def _factors(self, axes: Mapping[str, Any], zipped: Sequence[str]) -> list[Sequence[_Choice]]:
        """Return the factors of the product; seeds stay ranges until they are counted."""
        factors: list[Sequence[_Choice]] = []
        seeds = sum(seeds.stop - seeds.start for seeds in axes.get("seed", ()))
        if seeds > MAX_ROWS:
            raise ExpansionError(Fault("seed", *too_many_rows(seeds)))
        lists = {**axes}
        if "seed" in axes:
            lists["seed"] = [seed for seeds in axes["seed"] for seed in seeds]
        pairs = {key: values for key, values in lists.items() if key in zipped}
        for key, values in lists.items():
            if key not in pairs:
                factors.append(self._choices({key: values}))
            elif key == next(iter(pairs)):
                factors.append(self._choices(pairs))
        return factors

    def _choices(self, lists: Mapping[str, Sequence[Any]]) -> list[_Choice]:
        """Return one choice for each position of the lists, prompt names opened to their lines."""
        lengths = {len(values) for values in lists.values()}
        if len(lengths) > 1:
            told = ", ".join(f"{key} has {len(values)}" for key, values in lists.items())
            raise ExpansionError(Fault("zip", Rule.ZIP, f"zip pairs lists of equal length; {told}"))
        choices: list[_Choice] = []
        for values in zip(*lists.values(), strict=True):
            choice = dict(zip(lists, values, strict=True))
            if "text" in choice or "prompt" in choice:
                name, text = choice.get("prompt"), choice.get("text")
                for prompt in self._prompts(name, text):
                    choices.append({**choice, "prompt": prompt, "prompt_name": name})
            else:
                choices.append(choice)
        return choices

    def _rows(
        self, combinations: Iterable[_Choice], entry: MatrixEntry, at: Entry
    ) -> Iterator[Row]:
        single = {key: getattr(entry, key) for key in SINGLE_KEYS}
        known: dict[tuple[object, ...], WrittenSettings] = {}
        for values in combinations:
            subject = values.get("subject")
            if subject in self.names.broken_subjects:
                continue
            chosen = {k: v for k, v in values.items() if k in RenderSettings.model_fields}
            key = tuple(chosen.values())
            if key not in known:
                settings = RenderSettings.model_construct(**single, **chosen)
                known[key] = written_settings(settings, self.folder)
            seed = values.get("seed", self.default_seed)
            yield Row(at.where, subject, values["prompt"], seed, known[key], at.key_lines)


_Choice = dict[str, Any]
"""Values of one combination by key; `prompt` is a `Prompt`, its written name beside it."""

_Values = Mapping[str, Sequence[Any]]
"""Key -> its listed values, as a matrix or an exclusion wrote them."""


class _Exclusions:
    """Finds the combinations to drop: one bit for each exclusion, set where it agrees.

    A choice's bits are the exclusions that agree with it; a combination is dropped by those that
    agree with all its choices. So each exclusion is compared with the lists, not their product.
    """

    def __init__(self, dropped: Sequence[_Values], seeds: Sequence[range]) -> None:
        self._all = (1 << len(dropped)) - 1
        self._used = 0
        # Key -> value -> exclusions that list it, and key -> exclusions that do not ask.
        self._listing: dict[str, dict[object, int]] = {}
        self._silent: dict[str, int] = {}
        for number, values in enumerate(dropped):
            bit = 1 << number
            for key, listed in values.items():
                listing = self._listing.setdefault(key, {})
                self._silent[key] = self._silent.get(key, self._all) & ~bit
                for value in _seeds_in(listed, seeds) if key == "seed" else listed:
                    listing[value] = listing.get(value, 0) | bit

    def kept(self, factors: Sequence[Sequence[_Choice]]) -> Iterator[_Choice]:
        """Yield the product of the factors, each combination merged, without the dropped ones."""
        marked = [[(choice, self._agreeing(choice)) for choice in factor] for factor in factors]
        for parts in itertools.product(*marked):
            values: _Choice = {}
            agreeing = self._all
            for choice, bits in parts:
                values.update(choice)
                agreeing &= bits
            self._used |= agreeing
            if not agreeing:
                yield values

    def unused(self) -> list[int]:
        """Return the numbers, from 1, of the exclusions that dropped nothing."""
        return [n + 1 for n in range(self._all.bit_length()) if not self._used >> n & 1]

    def _agreeing(self, choice: _Choice) -> int:
        bits = self._all
        for key, listing in self._listing.items():
            if key == "prompt" and key in choice:
                names = (choice[key].name, choice["prompt_name"])
            elif key in choice:
                names = (choice[key],)
            else:
                continue
            agreeing = self._silent[key]
            for name in names:
                agreeing |= listing.get(name, 0)
            bits &= agreeing
        return bits


def _seeds_in(listed: Sequence[range], seeds: Sequence[range]) -> Iterator[int]:
    """Yield the seeds of `listed` that are among `seeds`, ranges met with ranges."""
    for one, other in itertools.product(listed, seeds):
        yield from range(max(one.start, other.start), min(one.stop, other.stop))


def _written_values(exclusion: Exclusion) -> _Values:
    values = {key: getattr(exclusion, key) for key in exclusion.model_fields_set}
    return {key: listed for key, listed in values.items() if listed is not None}


def _prompt_fault(axes: _Values, entry: str, names: str) -> Iterator[Fault]:
    if ("prompt" in axes) == ("text" in axes):
        text = f"{entry} takes prompt ({names}) or text; write one of them"
        yield Fault("", Rule.PROMPT_SOURCE, text)


def _zip_faults(axes: _Values, zipped: Sequence[str]) -> Iterator[Fault]:
    for number, key in enumerate(zipped):
        if key not in axes:
            yield Fault("zip", Rule.ZIP, f"zip names '{key}', which the matrix does not list")
        elif key in zipped[:number]:
            yield Fault("zip", Rule.ZIP, f"zip names '{key}' twice; delete one")


def _exclusion_faults(axes: _Values, dropped: Sequence[_Values]) -> Iterator[Fault]:
    """Yield the exclusions that ask for keys the matrix does not have, or for nothing."""
    for number, values in enumerate(dropped, 1):
        if not values:
            yield Fault("exclude", Rule.EXCLUDE, f"exclusion {number} is empty; remove it")
        for key in values:
            if key not in axes:
                text = f"exclusion {number} names {key}, which the matrix does not list"
                yield Fault("exclude", Rule.EXCLUDE, text)


def _refuse(faults: Iterable[Fault]) -> None:
    found = tuple(faults)
    if found:
        raise ExpansionError(*found)
