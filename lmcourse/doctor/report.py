"""The doctor's report: rows that are ok, or say the one command that mends them; text, HTML and JSON forms.

ok: nothing to do · warn: the course works, something of it will not · fix: the course cannot be trusted to work.

Lesson: 1 (doctor)
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Report", "Row", "Status"]

Status = Literal["ok", "warn", "fix"]
_COLOURS = {"ok": "#1a7f37", "warn": "#9a6700", "fix": "#cf222e"}


@dataclass(frozen=True)
class Row:
    """One check. `fix` is the command (or the act) that mends it; a row that is not ok always has one."""

    name: str
    status: Status
    found: str
    fix: str | None = None

    def __post_init__(self) -> None:
        assert self.status == "ok" or self.fix, f"the row {self.name!r} complains without a remedy"


@dataclass(frozen=True)
class Report:
    """Every row, and the versions to paste into an issue."""

    rows: tuple[Row, ...]
    versions: Mapping[str, str]

    @property
    def healthy(self) -> bool:
        """True if nothing needs fixing; warnings are allowed."""
        return all(row.status != "fix" for row in self.rows)

    def __str__(self) -> str:
        width = max((len(row.name) for row in self.rows), default=0)
        lines = []
        for row in self.rows:
            lines.append(
                f"{row.status.upper() if row.status == 'fix' else row.status:<4}  {row.name:<{width}}  {row.found}"
            )
            if row.fix:
                lines.append(f"{'':<4}  {'':<{width}}  → {row.fix}")
        return "\n".join([*lines, "", self._summary()])

    __repr__ = __str__

    def _summary(self) -> str:
        counts = {status: sum(row.status == status for row in self.rows) for status in _COLOURS}
        if counts["fix"]:
            return f"{counts['fix']} to fix, {counts['warn']} to know about, {counts['ok']} ok"
        return f"ready: {counts['ok']} ok, {counts['warn']} to know about"

    def _repr_html_(self) -> str:
        cells = "".join(_html_row(row) for row in self.rows)
        heads = "".join(f'<th style="text-align:left">{name}</th>' for name in ("check", "found", "remedy"))
        return (
            '<table aria-label="lmcourse doctor"><thead><tr><th></th>'
            f"{heads}</tr></thead><tbody>{cells}</tbody></table><p>{html.escape(self._summary())}</p>"
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON-able form: {"healthy", "versions", "rows"}."""
        return {"healthy": self.healthy, "versions": dict(self.versions), "rows": [asdict(row) for row in self.rows]}


def _html_row(row: Row) -> str:
    style = 'style="text-align:left"'
    fix = f"<code>{html.escape(row.fix)}</code>" if row.fix else ""
    return (
        f'<tr><td><b style="color:{_COLOURS[row.status]}">{row.status}</b></td><td {style}>{html.escape(row.name)}</td>'
        f"<td {style}>{html.escape(row.found)}</td><td {style}>{fix}</td></tr>"
    )
