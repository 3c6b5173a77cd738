"""Engine with the real decoder and random weights: however the work is cut up, the tokens stay the same."""

from __future__ import annotations

import random

import pytest
import torch
from engine_fakes import (
    assert_same_greedy,
    generate,
    make_engine,
    random_decoder,
    random_prompt,
    run_all,
    whole_sequence_logits,
)

from lmcourse.config import GenerationConfig
from lmcourse.models import Decoder

VOCAB, COUNT = 97, 40


def greedy_oracle(decoder: Decoder, prompt: list[int], count: int) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(whole_sequence_logits(decoder, ids, len(prompt))[-1].argmax()))
    return ids[len(prompt) :]


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    rng = random.Random(20)
    return [random_prompt(rng, VOCAB, 1, 50) for _ in range(32)]


@pytest.fixture(scope="module")
def expected(prompts: list[list[int]]) -> list[list[int]]:
    decoder = random_decoder(0)
    return [greedy_oracle(decoder, prompt, COUNT) for prompt in prompts]


GREEDY = GenerationConfig(max_new_tokens=COUNT)


def test_step_alone_equals_no_cache_at_all(prompts, expected) -> None:
    engine = make_engine(random_decoder(0))
    told = [generate(engine, prompt, GREEDY).token_ids for prompt in prompts[:8]]
    assert_same_greedy(random_decoder(0), prompts[:8], told, expected[:8])
    assert len({tuple(tokens) for tokens in expected}) > 16, "the random model must say different things"


@pytest.mark.parametrize(
    ("config", "preempts"),
    [
        ({"cache_max_entry_count": 1000}, False),
        ({"cache_max_entry_count": 1000, "max_prefill_token_num": 32}, False),
        ({"cache_max_entry_count": 1000, "max_prefill_token_num": 7}, False),
        ({"cache_max_entry_count": 40}, True),
        ({"cache_max_entry_count": 40, "max_prefill_token_num": 23, "max_batch_size": 9}, True),
        ({"cache_max_entry_count": 12, "cache_block_seq_len": 16}, True),
    ],
    ids=str,
)
def test_step_batch_of_32_equals_alone(prompts, expected, config: dict, preempts: bool) -> None:
    engine = make_engine(random_decoder(0), session_len=100, **config)
    ids = [engine.add(prompt, GREEDY) for prompt in prompts]
    outputs = run_all(engine)
    assert_same_greedy(random_decoder(0), prompts, [outputs[key].token_ids for key in ids], expected)
    assert (engine.stats().num_preemptions > 0) == preempts


def test_step_sampling_with_seeds_alone_equals_batch(prompts) -> None:
    gens = [GenerationConfig(max_new_tokens=COUNT, random_seed=n, top_k=30, top_p=0.9) for n in range(32)]
    alone_engine = make_engine(random_decoder(0))
    alone = [generate(alone_engine, prompt, gen).token_ids for prompt, gen in zip(prompts[:6], gens[:6], strict=True)]
    crowd = make_engine(random_decoder(0), cache_max_entry_count=40, session_len=100)
    ids = [crowd.add(prompt, gen) for prompt, gen in zip(prompts, gens, strict=True)]
    outputs = run_all(crowd)
    assert [outputs[key].token_ids for key in ids[:6]] == alone
    assert crowd.stats().num_preemptions > 0


def test_logprobs_equal_those_of_the_whole_sequence(prompts) -> None:
    decoder = random_decoder(0)
    engine = make_engine(random_decoder(0), max_prefill_token_num=11)
    output = generate(engine, prompts[3], GenerationConfig(max_new_tokens=10, logprobs=5))
    ids = prompts[3] + output.token_ids
    reference = whole_sequence_logits(decoder, ids, len(prompts[3])).log_softmax(-1)
    for place, report in enumerate(output.logprobs):
        row = reference[len(prompts[3]) + place - 1]
        assert list(report)[:5] == row.topk(5).indices.tolist()
        for token_id, value in report.items():
            assert value == pytest.approx(row[token_id].item(), abs=1e-4)


def test_dynamic_ntk_survives_chunks_and_preemption() -> None:
    """Prompts and answers cross the trained context of 24 tokens, where angles begin to depend on the length."""
    rng = random.Random(3)
    prompts = [random_prompt(rng, VOCAB, low, low) for low in (20, 30, 40, 23, 10, 35)]
    gen = GenerationConfig(max_new_tokens=30)

    def engine_with(**config: object):
        decoder = random_decoder(4, max_context=24)
        return make_engine(decoder, rope_scaling_factor=2.0, **{"session_len": 80, **config})

    roomy, tight = engine_with(), engine_with(cache_max_entry_count=21, max_prefill_token_num=13)
    plain = make_engine(random_decoder(4), session_len=80)
    alone = [generate(roomy, prompt, gen).token_ids for prompt in prompts]
    ids = [tight.add(prompt, gen) for prompt in prompts]
    outputs = run_all(tight)
    assert [outputs[key].token_ids for key in ids] == alone
    assert tight.stats().num_preemptions > 0
    assert generate(plain, prompts[2], gen).token_ids != alone[2]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_step_on_cuda_runs_batch_chunks_and_preemption(prompts, expected, dtype: torch.dtype) -> None:
    decoder = random_decoder(0).to("cuda", dtype)
    engine = make_engine(decoder, cache_max_entry_count=40, session_len=100, max_prefill_token_num=50)
    ids = [engine.add(prompt, GREEDY) for prompt in prompts]
    outputs = run_all(engine)
    assert engine.stats().num_preemptions > 0
    same = sum(outputs[key].token_ids[0] == tokens[0] for key, tokens in zip(ids, expected, strict=True))
    assert same == 32 if dtype == torch.float32 else same >= 29
    seeded = GenerationConfig(max_new_tokens=5, random_seed=1, logprobs=2, repetition_penalty=1.1, top_p=0.9)
    assert len(generate(engine, prompts[0], seeded).logprobs) == 5
