"""On a CUDA GPU: the engine's answers against transformers in float64, in each dtype, within bench.TOLERANCES.

A token may differ from transformers' only where rounding can have decided: where the two tokens' log-probabilities are
closer than the tolerance (`largest_loss`).
"""

from __future__ import annotations

import copy

import pytest
import torch

from lmcourse.bench import TOLERANCES, answer_prompts, compare_with_transformers
from lmcourse.config import TurbomindEngineConfig
from lmcourse.engine import Engine

pytestmark = pytest.mark.gpu
SCHEDULES = {  # name → tokens of each answer, settings
    "batch of 32": (256, {"max_batch_size": 32}),
    "chunks of 40": (64, {"max_batch_size": 32, "max_prefill_token_num": 40}),
    "preempted": (64, {"cache_max_entry_count": 80, "cache_block_seq_len": 16, "session_len": 1100}),
}


@pytest.fixture(scope="module")
def cuda_model(transformers_model):
    return copy.deepcopy(transformers_model).to("cuda", torch.float64)


@pytest.fixture(autouse=True)
def small_device(monkeypatch):
    monkeypatch.setenv("LMCOURSE_DEVICE_MEMORY_GIB", "8")


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_answers_on_the_gpu_equal_transformers_within_rounding(folder, prompts, cuda_model, dtype, schedule):
    num_tokens, settings = SCHEDULES[schedule]
    config = TurbomindEngineConfig(dtype=dtype, **settings)
    with Engine.from_folder(folder, config, device="cuda") as engine:
        answers = answer_prompts(engine, prompts, num_tokens)
        engine.check()
        assert (engine.stats().num_preemptions > 0) == (schedule == "preempted")
    parity = compare_with_transformers(cuda_model, answers)
    print(dtype, schedule, parity)
    assert parity.largest_difference < TOLERANCES[dtype]
    assert parity.largest_loss < TOLERANCES[dtype]


def test_answers_on_the_gpu_in_float32_are_those_of_the_cpu(folder, prompts):
    config = TurbomindEngineConfig(dtype="float32", max_batch_size=32)
    said = {}
    for device in ("cpu", "cuda"):
        with Engine.from_folder(folder, config, device=device) as engine:
            said[device] = [answer.token_ids for answer in answer_prompts(engine, prompts[::3], 64)]
    assert said["cuda"] == said["cpu"]


@pytest.mark.parametrize("bits", [8, 4])
def test_answers_from_quantised_caches_on_the_gpu_are_those_of_the_cpu(folder, prompts, bits):
    """Nearly: a key or value half way between two steps may be rounded the other way, and decide a close choice."""
    config = TurbomindEngineConfig(dtype="float32", max_batch_size=32, quant_policy=bits)
    said = {}
    for device in ("cpu", "cuda"):
        with Engine.from_folder(folder, config, device=device) as engine:
            said[device] = [answer.token_ids for answer in answer_prompts(engine, prompts[::3], 16)]
    same = sum(mine == theirs for mine, theirs in zip(said["cuda"], said["cpu"], strict=True))
    assert same >= 0.8 * len(said["cpu"])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_answers_on_the_gpu_are_as_close_as_transformers_in_the_same_dtype(folder, prompts, cuda_model, dtype):
    config = TurbomindEngineConfig(dtype=dtype, max_batch_size=32)
    with Engine.from_folder(folder, config, device="cuda") as engine:
        answers = answer_prompts(engine, prompts, 64)
    ours = compare_with_transformers(cuda_model, answers).largest_difference
    theirs = _error_of_transformers(cuda_model, answers, getattr(torch, dtype))
    assert ours < 2 * theirs, f"the engine is {ours} off, transformers {theirs}"


@torch.inference_mode()
def _error_of_transformers(model, answers, dtype):
    """The largest difference that the same dtype makes to transformers itself, on the engine's likeliest tokens."""
    rounded = copy.deepcopy(model).to(dtype)
    largest = 0.0
    for answer in answers:
        ids = torch.tensor([[*answer.prompt_ids, *answer.token_ids[:-1]]], device=model.device)
        exact, coarse = (
            m(ids, logits_to_keep=len(answer.token_ids)).logits[0].double().log_softmax(dim=-1)
            for m in (model, rounded)
        )
        likeliest = exact.topk(6, dim=-1).indices
        largest = max(largest, float((exact - coarse).gather(1, likeliest).abs().max()))
    return largest
