"""A report card: a measurement as one HTML file that says what was measured, on what, and how far it may be trusted.

    what ran · the figures, with spread and limit · the drawing · the machine and its versions · how it was measured

The file stands alone: the picture is inside, and it asks nothing of the network. Words of whoever measures are escaped.

Lesson: 7 (the report card)
"""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmcourse.bench.contest import Standing
from lmcourse.bench.report import is_busy
from lmcourse.errors import ConfigError, StorageError
from lmcourse.teach.drawing import Drawing

__all__ = ["ReportCard"]

_HEADS = ("program", "at once", "TTFT, ms", "TPOT, ms", "tokens/s", "spread", "limit", "reached")
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem;color:#111}"
    "table{border-collapse:collapse;margin:1rem 0}th,td{padding:.25rem .7rem;border-bottom:1px solid #999}"
    "th,td{text-align:right}"
    "th:first-child,td:first-child{text-align:left}img{max-width:100%}caption{text-align:left;font-weight:bold}"
)


@dataclass(frozen=True)
class ReportCard:
    """`machine` is bench.describe_machine()'s; `method` says, a sentence each, how it was measured."""

    title: str
    standings: Sequence[Standing]
    drawing: Drawing
    machine: Mapping[str, Any]
    method: Sequence[str]

    def __post_init__(self) -> None:
        if not self.standings or not self.method:
            raise ConfigError(
                "a report card needs figures and the way they were measured", expected="one or more of each",
                got=(len(self.standings), len(self.method)),
            )  # fmt: skip

    def html(self) -> str:
        """The whole page."""
        title = html.escape(self.title)
        return (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
            f"<style>{_STYLE}</style></head><body><h1>{title}</h1>{self._body()}</body></html>\n"
        )

    def save(self, path: str | Path) -> Path:
        """Write the page, whole or not at all; gives its path."""
        target = Path(path).expanduser()
        beside = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            beside.write_text(self.html(), encoding="utf-8")
            beside.replace(target)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise StorageError(
                "the report could not be written", got=error, where=target, next_step="name a folder that is there"
            ) from error
        return target

    def _body(self) -> str:
        picture = base64.b64encode(self.drawing.png()).decode()
        image = f'<img alt="{html.escape(self.drawing.alt, quote=True)}" src="data:image/png;base64,{picture}">'
        steps = "".join(f"<li>{html.escape(step)}</li>" for step in self.method)
        return f"{self._figures()}{image}{self._warning()}<h2>How</h2><ol>{steps}</ol>{self._machine()}"

    def _figures(self) -> str:
        rows = "".join(_row("td", _cells(standing)) for standing in self.standings)
        return f"<table><caption>Median of the repeats</caption>{_row('th', _HEADS)}{rows}</table>"

    def _machine(self) -> str:
        rows = "".join(_row("td", (key.replace("_", " "), value)) for key, value in self.machine.items())
        return f"<table><caption>The machine</caption>{rows}</table>"

    def _warning(self) -> str:
        if not is_busy(self.machine):
            return ""
        return (
            "<p><strong>Others were using this machine meanwhile: measure again before you rely on this.</strong></p>"
        )

    def _repr_html_(self) -> str:
        return f"<div>{self._figures()}{self._machine()}</div>"

    def __repr__(self) -> str:
        return f"ReportCard({self.title!r}, {len(self.standings)} figures)"


def _cells(row: Standing) -> tuple[str, ...]:
    return (
        row.name,
        str(row.batch),
        f"{1e3 * row.ttft:,.1f}",
        f"{1e3 * row.tpot:,.2f}",
        f"{row.tokens_per_second:,.0f}",
        f"{row.spread:.0%}",
        "–" if row.limit is None else f"{row.limit:,.0f}",
        "–" if row.fraction is None else f"{row.fraction:.0%}",
    )


def _row(kind: str, cells: Sequence[object]) -> str:
    return "<tr>" + "".join(f"<{kind}>{html.escape(str(cell))}</{kind}>" for cell in cells) + "</tr>"
