"""The page of `lynx-engine compare`: one file without script, that loads nothing from anywhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from html import escape

from lynx_engine.comparison.statistics import RESAMPLES, Column, Comparison, Estimate
from lynx_engine.report.texts import visible

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1a; --paper: #fdfdfb; --soft: #6b6b66;
  --line: #dcdcd6 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ececea; --paper: #191a1c; --soft: #a3a39d; --line: #3a3b3e }
}
body { margin: 2.5rem auto; max-width: 72rem; padding: 0 1.25rem; color: var(--ink);
  background: var(--paper); font: 16px/1.5 system-ui, sans-serif }
h1 { font-size: 1.5rem; margin-bottom: .25rem }
h2 { font-size: 1.1rem; margin-top: 2.25rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse; width: 100% }
th, td { padding: .5rem .75rem; text-align: right; border-bottom: 1px solid var(--line);
  font-variant-numeric: tabular-nums; white-space: nowrap; vertical-align: top }
th:first-child, td:first-child { text-align: left }
thead th { border-bottom: 2px solid var(--ink); font-weight: 600 }
small { display: block; color: var(--soft) }
sup, .soft { color: var(--soft) }
sup { line-height: 0 }
li { margin: .3rem 0; overflow-wrap: anywhere }
"""


def write_number(value: float, digits: int, *, sign: bool = False) -> str:
    """Return a number as the paper writes it: `.779`, `-.012`, `412.3`."""
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    return text.replace("0.", ".", 1) if text.lstrip("+-").startswith("0.") else text


def write_interval(estimate: Estimate, digits: int, *, sign: bool = False) -> str:
    """Return `.751 to .804`, or "" where there is no interval."""
    if estimate.low is None or estimate.high is None:
        return ""
    low, high = (write_number(x, digits, sign=sign) for x in (estimate.low, estimate.high))
    return f"{low} to {high}"


def compare_page(campaign: str, found: Comparison) -> str:
    """Return the page as HTML; nothing in it is markup that came from outside."""
    style = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'"
    title = _text(f"{campaign}: variants compared")
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>",
            f"<h1>{title}</h1>",
            '<p class="soft">Means over pairs of subject and prompt, seeds averaged first; below '
            f"them the 95 % interval, from {RESAMPLES:,} resamples of the pairs.</p>",
            _main_table(found),
            _differences(found),
            _list("Remarks", found.remarks),
            _footnotes(found.columns),
            "</body>\n</html>\n",
        ]
    )


def _main_table(found: Comparison) -> str:
    rows = [
        (
            f"<td>{_text(line.variant)}</td>"
            f"<td>{line.subjects} x {line.prompts}<small>{line.clips} clips</small></td>"
            + _cells(found.columns, line.estimates)
        )
        for line in found.lines
    ]
    return _table(("variant", "subjects x prompts"), found.columns, rows)


def _differences(found: Comparison) -> str:
    if not found.differences:
        return ""
    rows = [
        f"<td>{_text(one.variant)} less {_text(one.other)}</td>"
        + _cells(found.columns, one.estimates, sign=True)
        for one in found.differences
    ]
    table = _table(("difference",), found.columns, rows)
    return (
        "<h2>Differences</h2>\n"
        '<p class="soft">Of the same subject with the same prompt. An interval that holds 0 tells '
        f"no difference.</p>\n{table}"
    )


def _cells(
    columns: Iterable[Column], estimates: Mapping[str, Estimate | None], *, sign: bool = False
) -> str:
    cells: list[str] = []
    for column in columns:
        estimate = estimates[column.name]
        if estimate is None:
            cells.append("<td>-</td>")
            continue
        mean = write_number(estimate.mean, column.digits, sign=sign)
        interval = write_interval(estimate, column.digits, sign=sign)
        below = f"<small>{interval}</small>" if interval else ""
        cells.append(f"<td>{mean}{below}</td>")
    return "".join(cells)


def _table(heads: Iterable[str], columns: Iterable[Column], rows: Iterable[str]) -> str:
    measured = (
        f"<th>{_text(column.title)}<sup>{number}</sup></th>"
        for number, column in enumerate(columns, start=1)
    )
    head = "".join([*(f"<th>{_text(name)}</th>" for name in heads), *measured])
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def _list(title: str, items: Iterable[str]) -> str:
    lines = [f"<li>{_text(item)}</li>" for item in items]
    return "\n".join([f"<h2>{title}</h2>\n<ul>", *lines, "</ul>"]) if lines else ""


def _footnotes(columns: Iterable[Column]) -> str:
    lines = [
        f"<li><strong>{_text(column.title)}</strong>: {_text(column.footnote)}</li>"
        for column in columns
    ]
    return "\n".join(["<h2>How it was measured</h2>\n<ol>", *lines, "</ol>"])


def _text(text: str) -> str:
    return escape(visible(text))
