from __future__ import annotations

import pytest

from lmcourse.errors import ConfigError
from lmcourse.homework import EXERCISES, Hint, hint
from lmcourse.homework.hints import HintBook


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.id)
def test_hints_open_one_after_the_other(exercise) -> None:  # type: ignore[no-untyped-def]
    book = HintBook()
    opened = [book.open(exercise.id) for _ in range(4)]
    assert [text.split(" for ")[0] for text in opened] == ["Hint 1 of 3", "Hint 2 of 3", "Hint 3 of 3", "Hint 3 of 3"]
    assert all(said.endswith(written) for said, written in zip(opened, exercise.hints, strict=False))


def test_a_level_can_be_asked_for_and_the_next_follows_it() -> None:
    book = HintBook()
    assert book.open("1.1", 2).startswith("Hint 2")
    assert book.open("1.1").startswith("Hint 3")
    assert book.open("1.2").startswith("Hint 1")


@pytest.mark.parametrize("level", [0, 4, -1, True, "2"])
def test_level_out_of_range_is_named(level: object) -> None:
    with pytest.raises(ConfigError, match="1 to 3"):
        HintBook().open("1.1", level)  # type: ignore[arg-type]


def test_hint_shows_itself_as_prose() -> None:
    opened = hint("2.2", 1)
    assert isinstance(opened, Hint)
    assert not repr(opened).startswith("'")
    assert opened._repr_markdown_().startswith("> Hint 1 of 3")
