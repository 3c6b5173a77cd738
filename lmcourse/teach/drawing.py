"""Drawing: a figure and, always, the sentence that says what it shows.

The sentence is the image's alternative text in JupyterLab, and the output's plain text, which strict nbval compares: a
picture may differ in its last pixel between two machines, what it shows may not.

Lesson: 2 (the first plot)
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

__all__ = ["Drawing"]


@dataclass(frozen=True)
class Drawing:
    """A finished figure; `alt` is one or two full sentences with the figures that matter."""

    figure: Figure
    alt: str

    def png(self, *, dots_per_inch: int = 110) -> bytes:
        """The picture as PNG."""
        file = io.BytesIO()
        self.figure.savefig(file, format="png", dpi=dots_per_inch, bbox_inches="tight", metadata={"Software": None})
        return file.getvalue()

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        return {"image/png": self.png(), "text/plain": self.alt}, {"image/png": {"alt": self.alt}}

    def __repr__(self) -> str:
        return self.alt
