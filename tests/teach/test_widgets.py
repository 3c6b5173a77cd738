"""A Stepper shows what its function draws, in a browser and without one."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from lmcourse.errors import ConfigError
from lmcourse.teach import Drawing, Stepper


def draw(position: int) -> Drawing:
    figure = Figure(figsize=(1, 1))
    figure.add_subplot().plot([0, position])
    return Drawing(figure, f"a line to {position} <here>")


def test_stepper_moves_with_its_slider() -> None:
    stepper = Stepper(draw, [1, 2, 5], label="step", start=2)
    slider, picture = stepper.widget.children
    before = picture.value
    assert slider.label == "2"
    assert "a line to 2 &lt;here&gt;" in before
    slider.index = 2
    assert "a line to 5 &lt;here&gt;" in picture.value
    assert picture.value != before
    slider.index = 1
    assert picture.value == before


def test_stepper_falls_back_to_picture_and_words() -> None:
    stepper = Stepper(draw, [1, 2, 5], label="step")
    data, metadata = stepper._repr_mimebundle_()
    assert data["text/plain"] == "a line to 1 <here>" == repr(stepper)
    assert data["image/png"].startswith(b"\x89PNG")
    assert metadata["image/png"]["alt"] == data["text/plain"]
    assert "application/vnd.jupyter.widget-view+json" in data


def test_stepper_is_shown_with_its_words(monkeypatch) -> None:
    import IPython.display

    shown = []
    monkeypatch.setattr(IPython.display, "display", lambda data, **_: shown.append(data))
    Stepper(draw, [1, 2], label="step", start=2)._ipython_display_()
    picture, words = shown
    assert picture["text/plain"] == "a line to 2 <here>"
    assert words["text/html"] == ("<details><summary>In words, at step 2</summary>a line to 2 &lt;here&gt;</details>")


def test_stepper_draws_each_position_once() -> None:
    drawn = []
    stepper = Stepper(lambda position: drawn.append(position) or draw(position), [3, 4], label="step")
    assert not drawn
    slider, _ = stepper.widget.children
    slider.index = 1
    slider.index = 0
    stepper._repr_mimebundle_()
    assert drawn == [3, 4]


def test_stepper_asks_nobody_for_anything() -> None:
    _, picture = Stepper(draw, [1], label="step").widget.children
    assert "http" not in picture.value
    assert "<script" not in picture.value


@pytest.mark.parametrize(("positions", "start"), [([], None), ([1, 2], 3)])
def test_stepper_refuses_positions_it_does_not_have(positions: list[int], start: int | None) -> None:
    with pytest.raises(ConfigError, match="no such position"):
        Stepper(draw, positions, label="step", start=start)
