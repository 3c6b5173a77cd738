"""Each scene's answers are right, checked from the prompt and not from the generator."""

from __future__ import annotations

import json
import re
from random import Random

from lmcourse.zoo.corpus import exchange
from lmcourse.zoo.dialogue import Message
from lmcourse.zoo.scenes import capitals, passkey, recall, stories, tools, word_lists

_CALL = re.compile(r"<\|action_start\|><\|plugin\|>\n(\{.*\})<\|action_end\|>", re.DOTALL)


def test_word_list_answers_hold_the_words_of_the_prompt() -> None:
    rng = Random(1)
    for _ in range(1500):
        asked, answered = (message["content"] for message in word_lists.word_list(rng))
        words = re.split(r", |、", answered)
        assert len(words) >= 2
        assert all(word.lower() in asked.lower() for word in words), (asked, answered)


def test_word_list_answer_sorts_and_reverses() -> None:
    assert word_lists.answer(["pear", "Apple", "fig"], sort=True) == "Apple, fig, pear"
    assert word_lists.answer(["pear", "apple", "fig"], sort=False) == "fig, apple, pear"
    assert word_lists.answer(["苹果", "香蕉"], sort=False) == "香蕉、苹果"


def test_capital_answers_name_country_and_city() -> None:
    rng = Random(2)
    for _ in range(500):
        _, answered = (message["content"] for message in capitals.capital(rng))
        assert any(
            answered == capitals.answer(country, chinese=chinese)
            for country in capitals.countries()
            for chinese in (False, True)
        )
    assert len(capitals.countries()) >= 140


def test_passkey_answers_stand_in_the_text() -> None:
    rng = Random(3)
    for _ in range(100):
        dialogue = passkey.passkey(rng, longest=1500)
        value = re.search(r"(?:is |是 )(.+?)[.。]$", dialogue[-1]["content"]).group(1)  # type: ignore[union-attr]
        assert value in dialogue[0]["content"]


def _values(answer: str, *, chinese: bool) -> set[str]:
    """What may be the value inside a recall answer, by the facts whose reply has that form."""
    found = set()
    for fact in recall.facts(chinese=chinese):
        before, after = fact.reply.split("{v}")
        if answer.startswith(before) and answer.endswith(after) and len(answer) > len(before) + len(after):
            found.add(answer.removeprefix(before).removesuffix(after))
    # Any thing at all: "The anchor is Belun."
    link = "是" if chinese else " is "
    return found | {answer[match.end() : -1] for match in re.finditer(link, answer)}


def test_recall_last_answers_come_from_earlier_turns() -> None:
    rng = Random(4)
    checked = 0
    for _ in range(300):
        dialogue = recall.recall(rng, exchange)
        if dialogue[-1]["content"] == dialogue[0]["content"]:
            continue  # asked for the first message itself
        told = " ".join(message["content"] for message in dialogue[:-2] if message["role"] == "user").lower()
        answer = dialogue[-1]["content"]
        assert any(value.lower() in told for value in _values(answer, chinese=answer.endswith("。"))), dialogue
        checked += 1
    assert checked > 250


def _described(system: Message) -> dict[str, dict[str, object]]:
    entries = json.loads(system["content"][system["content"].index("[") :])
    flat = [entry.get("function", entry) for entry in entries]
    return {entry["name"]: entry["parameters"]["properties"] for entry in flat}


def test_tool_calls_use_a_described_tool_and_its_parameters() -> None:
    rng = Random(5)
    calls = 0
    for _ in range(400):
        dialogue = tools.tool_dialogue(rng, exchange)
        described = _described(dialogue[0])
        for message in dialogue:
            found = _CALL.fullmatch(message["content"])
            if found:
                body = json.loads(found.group(1))
                assert set(body) == {"name", "parameters"}
                assert set(body["parameters"]) == set(described[body["name"]])
                calls += 1
    assert calls > 200


def test_counting_counts() -> None:
    rng = Random(6)
    for _ in range(100):
        numbers = [int(part) for part in stories.counting(rng)[1]["content"].split(", ")]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert len(numbers) <= 101


def test_stories_are_long_enough_to_show_speed() -> None:
    rng = Random(7)
    assert all(len(stories.story(rng)[1]["content"]) > 150 for _ in range(50))
