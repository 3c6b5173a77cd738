"""Held-out accuracy through the engine: the figures of the card hold on the path that the course uses."""

from __future__ import annotations

import json

import pytest

from lmcourse import GenerationConfig, pipeline
from lmcourse.bundled import model_path
from lmcourse.zoo.evaluate import evaluate

pytestmark = pytest.mark.soak


@pytest.mark.parametrize("task", ["arithmetic", "capitals", "word_lists", "passkey", "recall", "course", "tools"])
def test_engine_reaches_the_accuracy_of_the_card(task: str) -> None:
    recorded = json.loads((model_path("tiny-chat") / "evaluation.json").read_text(encoding="utf-8"))
    count = 40 if task in {"passkey", "recall"} else 120
    with pipeline("tiny-chat") as pipe:

        def generate(chats: list[list[dict[str, str]]]) -> list[str]:
            return [answer.text for answer in pipe(chats, gen_config=GenerationConfig(max_new_tokens=160))]

        measured = evaluate(generate, count, tasks=(task,))[task]["accuracy"]
    expected = recorded["tasks"][task]["accuracy"]
    # Three standard deviations of a share measured on so few instances.
    slack = 3 * (max(expected * (1 - expected), 0.01) / count) ** 0.5
    assert measured >= expected - slack, (measured, expected)
