"""Turns the rows and products of a YAML manifest into single rows.

Names are looked up here and products are counted before they are expanded. It reads prompt files
and nothing else; what a variant makes of a setting is planning's business.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lynx_engine.errors import nearest
from lynx_engine.manifest.files import read_prompt_text
from lynx_engine.manifest.matrix_schema import AXES, SINGLE_KEYS, MatrixEntry
from lynx_engine.manifest.names import check_prompt, label_of
from lynx_engine.manifest.schema import PromptEntry, RenderSettings, RowEntry, written_settings
from lynx_engine.manifest.values import Prompt, Row, WrittenSettings

MAX_ROWS = 100_000


class ExpansionError(ValueError):
    """A row or matrix that cannot become rows; the message is a letter to the author.

    Attributes:
        key: The key to blame, "" when it is the whole entry.
    """

    def __init__(self, key: str, text: str) -> None:
        """Blame `key`, in the words of `text`."""
        self.key = key
        super().__init__(text)


def too_many_rows(rows: int) -> str:
    """Return the letter for a manifest of `rows` rows, more than the limit."""
    return (
        f"{rows:,} rows with those before; the limit is {MAX_ROWS:,} in one manifest. Split it, or "
        "narrow the lists"
    )


def prompts_of(name: str, entry: PromptEntry, folder: Path) -> tuple[Prompt, ...]:
    """Return the prompts one name stands for: its text, its file, or its file's lines.

    Lines are named `name-1`, `name-2`, ... ; blank lines are skipped and not counted.

    Raises:
        ValueError: If the file cannot be used or a text is no prompt.
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
        raise ValueError(f"prompt file '{written}' is empty; write one prompt a line")
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

    def check_subject(self, name: str) -> bool:
        """Return whether `name` is a sound subject.

        Raises:
            ExpansionError: If there is no subject of that name.
        """
        if name in self.subjects or name in self.broken_subjects:
            return name in self.subjects
        advice = nearest(name, self.subjects | self.broken_subjects) or "; define it under subjects"
        raise ExpansionError("subject", f"there is no subject '{name}'{advice}")

    def find_prompts(self, name: str) -> tuple[Prompt, ...]:
        """Return the prompts called `name`, none if its definition was refused.

        Raises:
            ExpansionError: If there is no prompt of that name.
        """
        if name in self.prompts or name in self.broken_prompts:
            return self.prompts.get(name, ())
        if self.broken_prompts and name.rpartition("-")[0] in self.broken_prompts:
            return ()
        advice = (
            nearest(name, {*self.prompts, *self.broken_prompts})
            or "; define it under prompts, or write text: instead"
        )
        raise ExpansionError("prompt", f"there is no prompt '{name}'{advice}")


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
    """

    names: Names
    folder: Path
    default_seed: int
    rows: int = field(default=0)

    def expand_row(self, entry: RowEntry, at: Entry) -> list[Row]:
        """Return one row, or one for each line of the prompt file it names.

        Raises:
            ExpansionError: If it names what is not there, or no prompt, or two.
        """
        sound = entry.subject is None or self.names.check_subject(entry.subject)
        prompts = self._prompts(entry.prompt, entry.text)
        self._count(len(prompts))
        if not sound:
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
        if ("prompt" in axes) == ("text" in axes):
            raise ExpansionError("", "a matrix takes prompt (names) or text; write one of them")
        factors = self._factors(axes, entry.zip or [])
        self._count(math.prod(len(factor) for factor in factors))
        exclusions = [
            _Drop({key: getattr(drop, key) for key in drop.model_fields_set})
            for drop in entry.exclude or []
        ]
        for number, drop in enumerate(exclusions, 1):
            drop.check_keys(axes, number)
        combinations = _kept(itertools.product(*factors), exclusions)
        rows = list(self._rows(combinations, entry, at))
        for number, drop in enumerate(exclusions, 1):
            if not drop.used and not self.names.broken_prompts:
                raise ExpansionError(
                    "exclude", f"exclusion {number} drops nothing; mend or remove it"
                )
        return rows

    def _count(self, rows: int) -> None:
        self.rows += rows
        if self.rows > MAX_ROWS:
            raise ExpansionError("", too_many_rows(self.rows))

    def _prompts(self, name: str | None, text: str | None) -> tuple[Prompt, ...]:
        if (name is None) == (text is None):
            raise ExpansionError("", "a row takes prompt (a name) or text; write one of them")
        if name is not None:
            return self.names.find_prompts(name)
        return (self._literal(text or ""),)

    def _literal(self, text: str) -> Prompt:
        try:
            return Prompt(label_of(check_prompt(text), otherwise="prompt"), text)
        except ValueError as error:
            raise ExpansionError("text", str(error)) from None

    def _factors(self, axes: Mapping[str, Any], zipped: Sequence[str]) -> list[Sequence[_Choice]]:
        """Return the factors of the product; seeds stay ranges until they are counted."""
        for name in axes.get("subject", ()):
            self.names.check_subject(name)
        _check_zip(axes, zipped)
        factors: list[Sequence[_Choice]] = []
        seeds = sum(seeds.stop - seeds.start for seeds in axes.get("seed", ()))
        if seeds > MAX_ROWS:
            raise ExpansionError("seed", too_many_rows(seeds))
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
            raise ExpansionError("zip", f"zip pairs lists of equal length; {told}")
        choices: list[_Choice] = []
        for values in zip(*lists.values(), strict=True):
            choice = dict(zip(lists, values, strict=True))
            if "text" in choice:
                choice["prompt"] = self._literal(choice["text"])
                choices.append(choice)
            elif "prompt" in choice:
                name = choice["prompt"]
                for prompt in self.names.find_prompts(name):
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


class _Drop:
    """One exclusion, and whether it has dropped anything."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = {key: listed for key, listed in values.items() if listed is not None}
        self.used = False

    def check_keys(self, axes: Mapping[str, Any], number: int) -> None:
        """Refuse keys the matrix does not have: such an exclusion can drop nothing."""
        if not self._values:
            raise ExpansionError("exclude", f"exclusion {number} is empty; remove it")
        for key in self._values:
            if key not in axes:
                raise ExpansionError(
                    "exclude", f"exclusion {number} names {key}, which the matrix does not list"
                )

    def matches(self, values: _Choice) -> bool:
        """Return whether a combination agrees with every key of the exclusion."""
        matched = all(self._agrees(key, listed, values) for key, listed in self._values.items())
        self.used = self.used or matched
        return matched

    @staticmethod
    def _agrees(key: str, listed: Sequence[Any], values: _Choice) -> bool:
        if key == "prompt":
            return values["prompt"].name in listed or values["prompt_name"] in listed
        if key == "seed":
            return any(values["seed"] in seeds for seeds in listed)
        return values[key] in listed


def _kept(
    products: Iterable[tuple[_Choice, ...]], exclusions: Sequence[_Drop]
) -> Iterator[_Choice]:
    """Merge the parts of each combination and leave out the excluded ones."""
    for parts in products:
        values: _Choice = {}
        for part in parts:
            values.update(part)
        # All are asked, not only the first that agrees: each must know whether it drops anything.
        if sum(drop.matches(values) for drop in exclusions) == 0:
            yield values


def _check_zip(axes: Mapping[str, Any], zipped: Sequence[str]) -> None:
    for key in zipped:
        if key not in axes:
            raise ExpansionError("zip", f"zip names '{key}', which the matrix does not list")
