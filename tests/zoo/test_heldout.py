"""Training and evaluation are apart: no import, no shared sums, no shared wording."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from random import Random

import pytest

import lmcourse.zoo
from lmcourse.zoo import heldout
from lmcourse.zoo.corpus import dialogues
from lmcourse.zoo.overlap import content_words, grams, shared_grams
from lmcourse.zoo.scenes.arithmetic import arithmetic, is_held_out
from lmcourse.zoo.scenes.course import topics
from lmcourse.zoo.tasks import TASKS, Instance, instances

_ZOO = Path(lmcourse.zoo.__file__).parent


def test_training_never_imports_the_evaluation(zoo_modules_of: Callable[[str], set[str]]) -> None:
    used = zoo_modules_of("lmcourse.zoo.train")
    assert "lmcourse.zoo.scenes.recall" in used, "the walk over imports is broken"
    assert not used & {"lmcourse.zoo.heldout", "lmcourse.zoo.tasks", "lmcourse.zoo.evaluate"}
    for name in used - {"lmcourse.zoo"}:
        path = _ZOO / name.removeprefix("lmcourse.zoo.").replace(".", "/")
        text = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")
        assert "heldout" not in text, name


def test_training_sums_are_never_held_out() -> None:
    rng = Random(11)
    for _ in range(4000):
        equation = arithmetic(rng)[1]["content"]
        a, sign, b, result = re.fullmatch(r"(\d+) ([+-]) (\d+) = (-?\d+)\.", equation).groups()  # type: ignore[union-attr]
        assert int(result) == (int(a) + int(b) if sign == "+" else int(a) - int(b))
        assert not is_held_out(int(a), int(b), plus=sign == "+"), equation
    share = sum(is_held_out(a, b, plus=True) for a in range(10, 100) for b in range(10, 100)) / 8100
    assert 0.1 < share < 0.15


def test_held_out_pairs_are_held_out_with_their_mirror() -> None:
    for a in range(10, 100):
        for b in range(10, 100):
            assert is_held_out(a, b, plus=True) == is_held_out(b, a, plus=True)


def _prompts(chat: Instance) -> list[str]:
    return [*chat.turns, *(message["content"] for message in chat.before if "name" in message)]


@pytest.mark.parametrize("task", TASKS)
def test_evaluation_prompts_share_no_8_gram_with_training(task: str) -> None:
    training = (m["content"] for d in islice(dialogues(20), 3000) for m in d if m["role"] in {"user", "system"})
    evaluation = [prompt for chat in instances(task, 250) for prompt in _prompts(chat)]
    assert grams(evaluation), "nothing to compare"
    assert shared_grams(training, evaluation) == set()


@pytest.mark.parametrize("task", [task for task in TASKS if task != "recall"])
def test_evaluation_prompts_are_never_training_prompts(task: str) -> None:
    asked = {chat.turns[-1].strip().lower() for chat in instances(task, 300)}
    trained = {m["content"].strip().lower() for d in islice(dialogues(21), 6000) for m in d if m["role"] == "user"}
    assert not asked & trained


def test_content_words_are_what_their_docstring_says() -> None:
    assert content_words("What is the capital of the Czech Republic?") == ["capital", "\x01"]
    assert content_words("Please add 37 and 45!") == ["add", "37", "45"]
    assert content_words("请问法国的首都是哪里？") == ["问", "\x01", "首", "里"] or "首" in content_words(
        "请问法国的首都是哪里？"
    )


def test_every_topic_has_held_out_questions() -> None:
    assert set(heldout.questions()) == {topic.name for topic in topics()}
    assert len(topics()) >= 80
