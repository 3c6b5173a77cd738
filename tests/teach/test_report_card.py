"""A report card is one page that holds every figure, the machine and the method, and trusts nobody's words."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from lmcourse.bench import Standing
from lmcourse.errors import ConfigError, StorageError
from lmcourse.teach import ReportCard, speed_bars

ROWS = [
    Standing("engine <fast>", 4, 64, (0.0125,), (1234.0, 1200.0, 1300.0), 5000.0),
    Standing("other", 4, 64, (0.5,), (10.0,), None),
]
MACHINE = {"cpu": "A & B", "gpu": None, "cores": 8, "load_average_1_minute": 0.5}


def card(**changes) -> ReportCard:
    drawing = speed_bars({"4 at once": {row.name: row.tokens_per_second for row in ROWS}})
    given = {"standings": ROWS, "machine": MACHINE, "method": ("Once.", "Twice <b>.")} | changes
    return ReportCard("A card <script>", drawing=drawing, **given)


class Outline(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.text += f"{data} "


def read(page: str) -> Outline:
    outline = Outline()
    outline.feed(page)
    return outline


def test_page_holds_every_figure_the_machine_and_the_method() -> None:
    outline = read(card().html())
    for shown in ("engine <fast>", "12.5", "3.24", "1,234", "8%", "5,000", "25%", "other", "–", "A & B", "Twice <b>."):
        assert shown in outline.text, shown
    assert "script" not in outline.tags
    assert outline.tags.count("table") == 2
    assert [source.partition(",")[0] for source in outline.sources] == ["data:image/png;base64"]  # nothing is fetched
    assert "engine &lt;fast&gt;, 4 at once: 1,234" in card().html()  # the picture in words


def test_page_warns_of_a_busy_machine() -> None:
    assert "measure again" not in card().html()
    assert "measure again" in card(machine=MACHINE | {"load_average_1_minute": 7.0}).html()


def test_save_writes_the_page_whole_or_not_at_all(tmp_path: Path) -> None:
    path = card().save(tmp_path / "card.html")
    assert path.read_text(encoding="utf-8") == card().html()
    with pytest.raises(StorageError, match="could not be written"):
        card().save(tmp_path / "nowhere" / "card.html")
    assert [entry.name for entry in tmp_path.iterdir()] == ["card.html"]


def test_notebook_shows_figures_and_machine_without_a_page_of_its_own() -> None:
    shown = card()._repr_html_()
    assert "1,234" in shown
    assert "<style" not in shown
    assert repr(card()) == "ReportCard('A card <script>', 2 figures)"


@pytest.mark.parametrize("changes", [{"standings": []}, {"method": ()}])
def test_a_card_without_figures_or_method_is_refused(changes) -> None:
    with pytest.raises(ConfigError, match="figures and the way"):
        card(**changes)
