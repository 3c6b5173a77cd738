"""The evaluation plays chats turn by turn and scores strictly."""

from __future__ import annotations

import json
from random import Random

import pytest

from lmcourse.zoo.evaluate import evaluate, evaluate_marks, table
from lmcourse.zoo.scenes.course import topics
from lmcourse.zoo.tasks import TASKS, holds_terms, instances


def test_evaluate_counts_instances_and_groups() -> None:
    results = evaluate(lambda chats: ["I do not know."] * len(chats), 12)
    assert set(results) == set(TASKS)
    assert all(row["instances"] == 12 and row["accuracy"] == 0 for row in results.values())
    assert len(table(results).splitlines()) == len(TASKS)
    json.dumps(results)


def test_evaluate_marks_tells_chat_by_chat_what_evaluate_counts() -> None:
    def generate(chats: list[list[dict[str, str]]]) -> list[str]:
        return [", ".join(sorted(chat[-1]["content"].split("\n")[-1].split(", "))) for chat in chats]

    marks = evaluate_marks(generate, 40, "word_lists")
    assert len(marks) == 40
    assert round(sum(marks) / 40, 4) == evaluate(generate, 40, ("word_lists",))["word_lists"]["accuracy"]


def test_evaluate_plays_every_turn_with_the_answers_given_before() -> None:
    seen: list[list[dict[str, str]]] = []

    def generate(chats: list[list[dict[str, str]]]) -> list[str]:
        seen.extend(chats)
        return [f"answer {len(chat)}" for chat in chats]

    evaluate(generate, 5, tasks=("recall",))
    chats = instances("recall", 5)
    assert len(seen) == sum(len(chat.turns) for chat in chats)
    for chat in seen:
        asked = [index for index, message in enumerate(chat) if message["role"] == "user"]
        assert asked[-1] == len(chat) - 1
        for index, message in enumerate(chat):
            if message["role"] == "assistant":
                assert message["content"] == f"answer {index}"


def test_instances_are_the_same_every_time() -> None:
    for task in TASKS:
        assert [chat.turns for chat in instances(task, 5)] == [chat.turns for chat in instances(task, 9)][:5]


def test_arithmetic_is_scored_by_the_last_number() -> None:
    for chat in instances("arithmetic", 200):
        numbers = [answer for answer in range(-99, 200) if chat.is_right(f"so 1 + 2 = {answer}.")]
        assert len(numbers) == 1
        assert not chat.is_right("no number here")


def test_lists_are_scored_exactly() -> None:
    chat = instances("word_lists", 1)[0]
    assert not chat.is_right("")
    assert not chat.is_right(chat.turns[0])


def test_tool_calls_are_scored_with_and_without_special_tokens() -> None:
    for chat in instances("tools", 50):
        described = json.loads(chat.before[-1]["content"])
        wrong = {"name": described[0]["name"], "parameters": {"nothing": 1}}
        assert not chat.is_right(json.dumps(wrong))
        assert not chat.is_right("{broken")


@pytest.mark.parametrize("language", ["english", "chinese"])
def test_course_answers_hold_their_own_terms_and_nobody_elses(language: str) -> None:
    for topic in topics():
        answer = getattr(topic, language).answer
        held = [other.name for other in topics() if holds_terms(answer, getattr(other, language))]
        assert held == [topic.name]


def test_course_answer_that_also_holds_another_answer_fails() -> None:
    rng = Random(5)
    for chat in instances("course", 60):
        side = "chinese" if chat.group.endswith("zh") else "english"
        right = [topic for topic in topics() if chat.is_right(getattr(topic, side).answer)]
        assert len(right) == 1
        other = rng.choice([topic for topic in topics() if topic is not right[0]])
        assert not chat.is_right(getattr(right[0], side).answer + " " + getattr(other, side).answer)
