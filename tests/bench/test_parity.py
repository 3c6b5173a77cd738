"""The parity check itself: it must see a token, a logit and a lead that are not as transformers has them."""

from __future__ import annotations

import dataclasses

import pytest

from lmcourse.baseline import AutoModelForCausalLM
from lmcourse.bench import answer_prompts, compare_with_transformers, parity_prompt_ids, parity_prompts
from lmcourse.bundled import model_path
from lmcourse.config import TurbomindEngineConfig
from lmcourse.engine import Engine


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained("tiny-chat")


@pytest.fixture(scope="module")
def answers():
    with Engine.from_folder(model_path("tiny-chat"), TurbomindEngineConfig(dtype="float32"), device="cpu") as engine:
        return answer_prompts(engine, [[1, 50, 60], [1, 70]], 12)


def test_compare_with_transformers_of_equal_answers(model, answers):
    parity = compare_with_transformers(model, answers)
    assert (parity.num_answers, parity.num_tokens, parity.num_equal) == (2, 24, 24)
    assert parity.all_equal
    assert parity.largest_difference < 1e-4
    assert parity.largest_loss == 0
    assert parity.smallest_lead > 0
    assert "24 of 24 tokens equal" in str(parity)


def test_compare_with_transformers_sees_one_wrong_token(model, answers):
    ids = answers[0].token_ids
    wrong = dataclasses.replace(answers[0], token_ids=(*ids[:-1], ids[-1] + 1))
    parity = compare_with_transformers(model, [wrong, answers[1]])
    assert parity.num_equal == 23
    assert parity.largest_loss > 0


def test_compare_with_transformers_sees_one_wrong_logprob(model, answers):
    logprobs = [dict(row) for row in answers[1].logprobs]
    token = next(iter(logprobs[4]))
    logprobs[4][token] += 0.5
    parity = compare_with_transformers(model, [dataclasses.replace(answers[1], logprobs=tuple(logprobs))])
    assert parity.largest_difference == pytest.approx(0.5, abs=1e-3)


def test_parity_prompts_are_fifty_different_ones_in_two_languages():
    prompts = parity_prompts()
    assert len(set(prompts)) == 50
    chinese = [prompt for prompt in prompts if any("\u4e00" <= c <= "\u9fff" for c in prompt)]
    assert 20 <= len(chinese) <= 30
    lengths = [len(ids) for ids in parity_prompt_ids(model_path("tiny-chat"))]
    assert min(lengths) < 20
    assert max(lengths) > 600
