"""Stepper: a slider over drawings, as thin as a shell can be.

    ├──●──────────┤ step 7        one HTML image with its alternative text
    [ picture ]                   where widgets do not run: the picture of `start`, as PNG
    ▸ In words, at step 7         and in any case what that one shows, in words

The slider asks a pure function for a Drawing and shows it; nothing else happens here. Arrow keys move it. Everything
comes from the kernel: no script, no request to anybody.

Lesson: 3 (the block map)
"""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from lmcourse.errors import ConfigError
from lmcourse.teach.drawing import Drawing, show_with_words

__all__ = ["Stepper"]

T = TypeVar("T")


class Stepper(Generic[T]):
    """`draw(position)` for each of `positions`, which the slider offers in this order; `start` is shown first."""

    def __init__(
        self, draw: Callable[[T], Drawing], positions: Sequence[T], *, label: str, start: T | None = None
    ) -> None:
        self.positions = tuple(positions)
        first = self.positions[0] if start is None and self.positions else start
        if first not in self.positions:
            expected = f"one of {self.positions}" if self.positions else "at least one position"
            raise ConfigError("the slider has no such position", expected=expected, got=first, where=label)
        self._draw, self._label, self._first = draw, label, first
        self._shown: dict[T, Drawing] = {}
        self._widget: Any = None

    def drawing(self, position: T) -> Drawing:
        """The drawing at a position; made once."""
        if position not in self._shown:
            self._shown[position] = self._draw(position)
        return self._shown[position]

    @property
    def widget(self) -> Any:
        """The ipywidgets box: its children are the slider and the picture."""
        if self._widget is None:
            self._widget = self._make_widget()
        return self._widget

    def _make_widget(self) -> Any:
        import ipywidgets

        slider = ipywidgets.SelectionSlider(
            options=[(str(position), place) for place, position in enumerate(self.positions)],
            value=self.positions.index(self._first),
            description=self._label,
            continuous_update=True,
            layout={"width": "min(100%, 700px)"},
        )
        picture = ipywidgets.HTML(value=self._page(slider.value))
        slider.observe(lambda change: setattr(picture, "value", self._page(change["new"])), names="value")
        return ipywidgets.VBox([slider, picture])

    def _page(self, place: int) -> str:
        drawing = self.drawing(self.positions[place])
        data = base64.b64encode(drawing.png()).decode()
        alt = html.escape(drawing.alt, quote=True)
        image = f'<img alt="{alt}" src="data:image/png;base64,{data}" style="max-width: 100%">'
        return f'<figure style="margin: 0" role="group" aria-live="polite">{image}</figure>'

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        data, metadata = self.drawing(self._first)._repr_mimebundle_()
        view = self.widget._repr_mimebundle_()
        live = {kind: content for kind, content in view.items() if kind.startswith("application/")}
        return {**live, **data}, metadata

    def _ipython_display_(self) -> None:
        words = self.drawing(self._first).alt
        show_with_words(self._repr_mimebundle_(), words, f"In words, at {self._label} {self._first}")

    def __repr__(self) -> str:
        return self.drawing(self._first).alt
