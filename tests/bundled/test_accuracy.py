"""Held-out accuracy through the engine: the figures of the card hold on the path that the course uses."""

from __future__ import annotations

import json

import pytest

from lmcourse import GenerationConfig, Pipeline, TurbomindEngineConfig, pipeline
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


@pytest.mark.parametrize("task", ["capitals", "word_lists", "passkey", "recall"])
def test_int8_cache_answers_as_well_within_half_a_point(task: str) -> None:
    """Passkey texts have up to 1,500 tokens."""
    count, accuracy = 60 if task in {"passkey", "recall"} else 200, {}
    for policy in (0, 8, 4):
        with pipeline("tiny-chat", backend_config=TurbomindEngineConfig(quant_policy=policy)) as pipe:

            def generate(chats: list[list[dict[str, str]]], pipe: Pipeline = pipe) -> list[str]:
                return [answer.text for answer in pipe(chats, gen_config=GenerationConfig(max_new_tokens=160))]

            accuracy[policy] = evaluate(generate, count, tasks=(task,))[task]["accuracy"]
    print(task, accuracy)
    assert accuracy[8] >= accuracy[0] - 0.005
