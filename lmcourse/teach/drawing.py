"""Drawing: a figure and, always, the sentences that say what it shows.

In a notebook the picture comes first, then a line that unfolds into the words: JupyterLab gives pictures no
alternative text of their own. Strict nbval compares the words: a picture may differ in its last pixel between two
machines, what it shows may not.

Lesson: 2 (the first plot)
"""

from __future__ import annotations

import html
import io
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

__all__ = ["Drawing", "show_with_words"]


@dataclass(frozen=True)
class Drawing:
    """A finished figure; `alt` is one or a few full sentences with the figures that matter."""

    figure: Figure
    alt: str

    def png(self, *, dots_per_inch: int = 110) -> bytes:
        """The picture as PNG."""
        file = io.BytesIO()
        self.figure.savefig(file, format="png", dpi=dots_per_inch, bbox_inches="tight", metadata={"Software": None})
        return file.getvalue()

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        return {"image/png": self.png(), "text/plain": self.alt}, {"image/png": {"alt": self.alt}}

    def _ipython_display_(self) -> None:
        show_with_words(self._repr_mimebundle_(), self.alt, "In words")

    def __repr__(self) -> str:
        return self.alt


def show_with_words(bundle: tuple[dict[str, Any], dict[str, Any]], words: str, summary: str) -> None:
    """Show a picture, and below it a line that unfolds into what it shows."""
    import IPython.display

    display: Any = IPython.display.display
    data, metadata = bundle
    display(data, metadata=metadata, raw=True)
    unfolding = f"<details><summary>{html.escape(summary)}</summary>{html.escape(words)}</details>"
    display({"text/html": unfolding, "text/plain": f"({summary}: {words})"}, raw=True)
