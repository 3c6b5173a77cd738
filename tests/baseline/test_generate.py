"""generate_ids against a loop that runs the whole sequence again for each token."""

from __future__ import annotations

import pytest
import torch
from transformers import GenerationConfig

from lmcourse.baseline import AutoModelForCausalLM, generate_ids


@torch.inference_mode()
def naive_greedy(model, prompt_ids, count):
    ids = list(prompt_ids)
    for _ in range(count):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt_ids) :]


@pytest.fixture
def model(make_pair):
    return AutoModelForCausalLM.from_pretrained(make_pair().folder)


@pytest.mark.parametrize("prompt_len", [1, 7, 60])
def test_generate_ids_equals_the_naive_loop(model, prompt_len):
    prompt = torch.randint(0, 300, (prompt_len,)).tolist()
    assert generate_ids(model, prompt, 30) == naive_greedy(model, prompt, 30)


def test_generate_ids_without_stop_ids_ignores_the_models_own(model):
    prompt = [5, 6, 7]
    expected = naive_greedy(model, prompt, 20)
    model.generation_config.eos_token_id = expected[3]
    assert generate_ids(model, prompt, 20) == expected


def test_generate_ids_leaves_the_stop_id_out(model):
    prompt = [5, 6, 7]
    expected = naive_greedy(model, prompt, 20)
    stop = expected[5]
    other = next(token_id for token_id in range(299, 0, -1) if token_id not in expected)
    assert generate_ids(model, prompt, 20, stop_ids=[other, stop]) == expected[: expected.index(stop)]


def test_generate_ids_is_greedy_whatever_the_checkpoint_asks_for(model):
    prompt = [5, 6, 7]
    model.generation_config = GenerationConfig(do_sample=True, temperature=5.0, repetition_penalty=2.0)
    assert generate_ids(model, prompt, 20) == naive_greedy(model, prompt, 20)
