"""What lessons show: pure functions from a table to a drawing, so that each can be tested without a notebook.

drawing.py   Drawing: a figure with the sentence that says what it shows
plots.py     table → Drawing
"""

from __future__ import annotations

from lmcourse.teach.drawing import Drawing
from lmcourse.teach.plots import speed_bars

__all__ = ["Drawing", "speed_bars"]
