"""The identity gate: which seed a row tries next, and what becomes of each try's clip.

Pure rules over numbers: it renders nothing, reads no log, and knows no recogniser but by name.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from lynx_engine.jobs import RenderJob
    from lynx_engine.results import Likeness
    from lynx_engine.variants.spec import VariantSpec

NO_FACE = -math.inf
"""Score of a clip that shows no face: less than any recogniser gives."""

NO_EVALUATOR = (
    "the identity gate needs a recogniser that scores likeness, and this machine has none; run "
    "pip install 'lynx_engine[score]', and have the setting evaluator allow it, or remove identity"
)

_WRITTEN = re.compile(r"(\S+), ([0-9]+) seeds?, (best|first); by (.+)", re.DOTALL)


def reseed(seed: int, try_number: int) -> int:
    """Return the seed of one try: a sequence that anyone can compute again.

    The first try takes the row's own seed. Try n takes the first 63 bits, highest first, of the
    sha256 of the ASCII text `lynx_engine identity gate, seed S, try n`, numbers in plain decimal.

    Args:
        seed: The row's seed, 0 to 2^63 - 1.
        try_number: n, from 1.
    """
    if try_number < 1:
        raise ValueError(f"tries are counted from 1, not {try_number}")
    if try_number == 1:
        return seed
    text = f"lynx_engine identity gate, seed {seed}, try {try_number}"
    return int.from_bytes(hashlib.sha256(text.encode("ascii")).digest()[:8], "big") >> 1


class Verdict(NamedTuple):
    """What becomes of a try.

    Attributes:
        passes: Whether the clip is over the bar: it is published as rendered, and ends the row.
        is_kept: Whether the clip gets the row's file name, from a weaker one if there is one. Else
            it is recorded and deleted.
        goes_on: Whether the next seed is tried.
    """

    passes: bool
    is_kept: bool
    goes_on: bool


@dataclass(frozen=True, slots=True)
class IdentityGate:
    """A bar for the likeness of a clip, and how many seeds a row may take to get over it.

    Attributes:
        min_score: The least mean likeness that passes, on the evaluator's scale.
        attempts: Seeds that a row takes at most, and further ones each time it is retried.
        keep: Which clip stays if none passes: the `best` one, or the `first`.
        evaluator: The recogniser that scores, with version and licence.
    """

    min_score: float
    attempts: int
    keep: str
    evaluator: str

    def __str__(self) -> str:
        """Return the text that stands in a request, as in `0.55, 3 seeds, best; by dlib 20`."""
        seeds = f"{self.attempts} seed{'s' * (self.attempts > 1)}"
        return f"{self.min_score!r}, {seeds}, {self.keep}; by {self.evaluator}"

    @classmethod
    def parse(cls, text: str) -> IdentityGate:
        """Read what `str` wrote.

        Raises:
            ValueError: If `text` is nothing that it writes.
        """
        found = _WRITTEN.fullmatch(text)
        if found is None:
            raise ValueError(f"not an identity gate: {text!r}")
        gate = cls(float(found[1]), int(found[2]), found[3], found[4])
        if str(gate) != text or gate.attempts < 1:
            raise ValueError(f"not an identity gate: {text!r}")
        return gate

    def passes(self, likeness: Likeness) -> bool:
        """Return whether a clip is over the bar; one that shows no face never is."""
        return likeness.mean is not None and likeness.mean >= self.min_score

    def judge(
        self, likeness: Likeness, *, best: float | None, try_number: int, last_try: int
    ) -> Verdict:
        """Say what becomes of a try.

        Args:
            likeness: Of its clip.
            best: Score of the clip that tries before left published under the bar; None if none.
            try_number: The try, from 1.
            last_try: The last one that the row may take now.
        """
        if self.passes(likeness):
            return Verdict(passes=True, is_kept=True, goes_on=False)
        is_better = self.keep == "best" and best is not None and score_of(likeness.mean) > best
        return Verdict(
            passes=False, is_kept=best is None or is_better, goes_on=try_number < last_try
        )

    def last_try(self, tries: int) -> int:
        """Return the last try of a row that has had `tries`.

        Seeds are given out by `attempts`: a row that was stopped within such a share goes on to its
        end, and one that has used it up gets the next share when it is retried.
        """
        return (tries // self.attempts + 1) * self.attempts

    def is_through(self, tries: int) -> bool:
        """Return whether a row that has had `tries`, one at least, has used up its share."""
        return tries % self.attempts == 0


_NO_GATE = IdentityGate(0.0, 1, "first", "")


def gate_of(job: RenderJob) -> IdentityGate | None:
    """Return a job's gate, None without one."""
    return IdentityGate.parse(job.gate) if job.gate else None


def shares_of(job: RenderJob) -> IdentityGate:
    """Return what says how many seeds a job takes: its gate, or one that gives its own seed."""
    return gate_of(job) or _NO_GATE


def at_try(job: RenderJob, try_number: int) -> RenderJob:
    """Return the request that a try renders: the row's, with the try's seed.

    Its id is another one from the second try on; records, file names and rules keep the row's.
    """
    return job if try_number == 1 else replace(job, seed=reseed(job.seed, try_number))


def conditions_too(evaluator: str, spec: VariantSpec) -> bool:
    """Return whether the recogniser that scores also makes a variant's identity embedding.

    It would find again what it had put in. A recogniser is known by the first word of its name,
    which stands in the path or the source of the variant's encoder if it is that one.
    """
    if not spec.uses_subject or not evaluator.strip():
        return False
    sources = [weights.source for weights in spec.weights if weights.path == spec.face_encoder]
    word = evaluator.split(maxsplit=1)[0].lower()
    return any(word in text.lower() for text in (spec.face_encoder, *sources))


def same_recogniser(evaluator: str, spec: VariantSpec) -> str:
    """Return the letter for a variant that `conditions_too` is true of."""
    return (
        f"{spec.name} is conditioned by the recogniser that would score it, {evaluator}; set "
        "evaluator to another one (dlib comes with pip install 'lynx_engine[score]'), or remove "
        "identity"
    )


def score_of(mean: float | None) -> float:
    """Return the number that tries are compared by: the mean likeness, or `NO_FACE`."""
    return mean if mean is not None and math.isfinite(mean) else NO_FACE


def likeness_in_words(gate: str, best: float | None, tries: int) -> str:
    """Return how far a row came, as in `0.41 of 0.55 after 3 seeds`.

    Args:
        gate: A job's gate, as its request holds it.
        best: Score of the published clip; None if there is none.
        tries: Seeds that were rendered.
    """
    if best is None or not gate:
        return "unknown"
    asked = f"{IdentityGate.parse(gate).min_score:g} after {tries} seed{'s' * (tries != 1)}"
    if best == NO_FACE:
        return f"no face seen, of {asked}"
    # Cut, not rounded: what is under the bar must not look as if it were on it.
    return f"{math.floor(best * 100) / 100:.2f} of {asked}"


def unscored_letter(device: str) -> str:
    """Return the failure of a row that a gate waits for and that nobody scored on `device`."""
    return (
        f"the clip was rendered on {device} and not scored, so the identity gate cannot pass it. "
        "Have the evaluator installed where the row renders, and run `lynx-engine retry`."
    )
