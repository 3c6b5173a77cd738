"""Score: how many cases passed, as a float between 0 and 1 that explains itself in a terminal and in a notebook.

It is a float so that graders can add it up (nbgrader takes it as partial credit); what happened is in its attributes.

Lesson: 9 (homework)
"""

from __future__ import annotations

import html
from enum import Enum
from typing import Self

__all__ = ["Outcome", "Score"]

_WRAPPED = "margin:0;white-space:pre-wrap;word-break:normal;overflow-wrap:anywhere"  # JupyterLab breaks words elsewhere


class Outcome(Enum):
    """How an answer did as a whole."""

    UNTRIED = "not tried yet"
    FAILED = "not yet right"
    PASSED = "passed"


class Score(float):
    """Share of passed cases, with `outcome`, the sentence `headline`, and `details` as (name, text) rows."""

    outcome: Outcome
    headline: str
    details: tuple[tuple[str, str], ...]

    def __new__(cls, value: float, outcome: Outcome, headline: str, details: tuple[tuple[str, str], ...] = ()) -> Self:
        score = super().__new__(cls, value)
        score.outcome, score.headline, score.details = outcome, headline, details
        return score

    def __reduce__(self) -> tuple[type[Score], tuple[object, ...]]:
        return Score, (float(self), self.outcome, self.headline, self.details)

    def __repr__(self) -> str:
        rows = [f"  {name:<10}{text.replace(chr(10), chr(10) + ' ' * 12)}" for name, text in self.details]
        return "\n".join([self.headline, *rows])

    __str__ = __repr__

    def _repr_html_(self) -> str:
        color, mark = {
            Outcome.UNTRIED: ("#6b7280", "○"),
            Outcome.FAILED: ("#b45309", "✗"),
            Outcome.PASSED: ("#15803d", "✓"),
        }[self.outcome]
        rows = "".join(
            f"<tr><td style='text-align:left;vertical-align:top'>{html.escape(name)}</td>"
            f"<td style='text-align:left'><pre style='{_WRAPPED}'>{html.escape(text)}</pre></td>"
            "</tr>"
            for name, text in self.details
        )
        table = f"<table>{rows}</table>" if rows else ""
        return (
            f"<div style='border-left:4px solid {color};padding:2px 12px'>"
            f"<b>{mark} {html.escape(self.headline)}</b>{table}</div>"
        )
