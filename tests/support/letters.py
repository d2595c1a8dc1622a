"""Reads problems of a manifest in tests: the words apart from the rule, which each must have."""

from __future__ import annotations

from lynx_engine.errors import Problem


def in_words(problem: Problem) -> str:
    """Return where and what, after seeing that the problem names the rule that was broken."""
    assert problem.rule is not None, problem
    assert str(problem) == f"{problem.where}: {problem.text} [{problem.rule}]"
    return f"{problem.where}: {problem.text}"
