"""A drawing shows its picture and, below it, its words."""

from __future__ import annotations

from matplotlib.figure import Figure

from lmcourse.teach import Drawing


def test_drawing_is_shown_with_its_words(monkeypatch) -> None:
    import IPython.display

    shown = []
    monkeypatch.setattr(IPython.display, "display", lambda data, **settings: shown.append((data, settings)))
    figure = Figure(figsize=(1, 1))
    figure.add_subplot().plot([0, 1])
    Drawing(figure, "rises from 0 & ends at 1")._ipython_display_()
    (picture, settings), (words, _) = shown
    assert picture["image/png"].startswith(b"\x89PNG")
    assert settings["metadata"] == {"image/png": {"alt": "rises from 0 & ends at 1"}}
    assert words["text/html"] == "<details><summary>In words</summary>rises from 0 &amp; ends at 1</details>"
    assert words["text/plain"] == "(In words: rises from 0 & ends at 1)"
