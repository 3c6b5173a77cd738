"""Engine on the bundled model: real tokenizer, real files, the cache's shape must not show in the text."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from engine_fakes import run_all

from lmcourse.bundled import model_path
from lmcourse.config import GenerationConfig, TurbomindEngineConfig
from lmcourse.engine import Engine, StepOutput
from lmcourse.errors import MemoryBudgetError

TEXTS = ["hello", "给我讲个笑话", "上海是", "12 + 30 =", "please provide three suggestions about time management", "🙂"]
PROMPTS = [text * (1 + repeat) for repeat in range(6) for text in TEXTS][:32]


def open_engine(**config: object) -> Engine:
    return Engine.from_folder(model_path("tiny-chat"), TurbomindEngineConfig(**config), device="cpu")


def answer_all(engine: Engine, prompts: Sequence[str], gens: Sequence[GenerationConfig]) -> list[StepOutput]:
    ids = [
        engine.add(engine.tokenizer.encode(prompt, add_bos=True), gen)
        for prompt, gen in zip(prompts, gens, strict=True)
    ]
    outputs = run_all(engine)
    return [outputs[key] for key in ids]


def tokens_of(outputs: Sequence[StepOutput]) -> list[list[int]]:
    return [output.token_ids for output in outputs]


@pytest.fixture(scope="module")
def engine():
    with open_engine() as opened:
        yield opened


@pytest.fixture(scope="module")
def alone(engine: Engine) -> list[StepOutput]:
    gen = GenerationConfig(max_new_tokens=24, ignore_eos=True)
    return [answer_all(engine, [prompt], [gen])[0] for prompt in PROMPTS]


def test_from_folder_reads_what_the_files_say(engine: Engine) -> None:
    assert engine.session_len == engine.spec.max_context == 2048
    assert set(engine.spec.eos_ids) >= {engine.tokenizer.eos_id}
    stats = engine.stats()
    assert stats.kv_bytes + stats.weight_bytes <= 2**30
    assert 0.75 < stats.kv_bytes / (2**30 - stats.weight_bytes) <= 0.8
    assert engine._runner.decoder.dtype == torch.float32


@pytest.mark.parametrize(
    ("config", "preempts"),
    [
        ({}, False),
        ({"max_prefill_token_num": 17}, False),
        ({"cache_max_entry_count": 20, "cache_block_seq_len": 16, "session_len": 300}, True),
    ],
    ids=str,
)
def test_batch_of_32_says_what_each_says_alone(alone: list[StepOutput], config: dict, preempts: bool) -> None:
    gen = GenerationConfig(max_new_tokens=24, ignore_eos=True)
    with open_engine(**config) as engine:
        outputs = answer_all(engine, PROMPTS, [gen] * 32)
        assert (engine.stats().num_preemptions > 0) == preempts
    assert tokens_of(outputs) == tokens_of(alone)
    assert [output.text for output in outputs] == [engine.tokenizer.decode(output.token_ids) for output in alone]


def test_seeds_do_not_feel_the_batch(engine: Engine) -> None:
    gens = [GenerationConfig(max_new_tokens=16, random_seed=n, top_k=40, top_p=0.8) for n in range(32)]
    together = answer_all(engine, PROMPTS, gens)
    for place in (0, 9, 31):
        assert answer_all(engine, [PROMPTS[place]], [gens[place]])[0] == StepOutput(
            **{**together[place].__dict__, "request_id": engine._next_id - 1}
        )


def test_stop_word_of_the_stream(engine: Engine, alone: list[StepOutput]) -> None:
    """Any three characters that the model says in the middle of an answer serve as a stop string."""
    for prompt, said in list(zip(PROMPTS, alone, strict=True))[:6]:
        middle = len(said.text) // 2
        word = said.text[middle : middle + 3]
        gen = GenerationConfig(max_new_tokens=24, ignore_eos=True, stop_words=[word])
        output = answer_all(engine, [prompt], [gen])[0]
        assert output.text == said.text[: said.text.index(word)]
        assert output.finish_reason == "stop"


def test_budget_smaller_than_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMCOURSE_DEVICE_MEMORY_GIB", "0.01")
    with pytest.raises(MemoryBudgetError, match="LMCOURSE_DEVICE_MEMORY_GIB"):
        open_engine()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_on_cpu_runs(dtype: str) -> None:
    with open_engine(dtype=dtype, cache_max_entry_count=40) as engine:
        output = answer_all(engine, ["hello"], [GenerationConfig(max_new_tokens=4, ignore_eos=True)])[0]
    assert len(output.token_ids) == 4


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_cuda_says_what_the_cpu_says(alone: list[StepOutput], dtype: str) -> None:
    gen = GenerationConfig(max_new_tokens=24, ignore_eos=True)
    folder = model_path("tiny-chat")
    with Engine.from_folder(folder, TurbomindEngineConfig(dtype=dtype), device="cuda") as engine:
        first = [output.token_ids[0] for output in answer_all(engine, PROMPTS, [gen] * 32)]
    same = sum(mine == said.token_ids[0] for mine, said in zip(first, alone, strict=True))
    assert same >= (32 if dtype == "float32" else 28)


@pytest.mark.parametrize(("policy", "share"), [(8, 0.9), (4, 0.5)])
def test_quantised_cache_says_nearly_the_same(policy: int, share: float, alone: list[StepOutput]) -> None:
    gen = GenerationConfig(max_new_tokens=24, ignore_eos=True)
    with open_engine(quant_policy=policy, cache_max_entry_count=200) as engine:
        outputs = answer_all(engine, PROMPTS, [gen] * 32)
        spec, stats = engine.spec, engine.stats()
    bytes_per_head = {8: spec.head_dim + 2, 4: spec.head_dim // 2 + 4}[policy]
    assert stats.kv_bytes == 200 * 64 * 2 * spec.num_layers * spec.num_kv_heads * bytes_per_head
    same = [got == want for got, want in zip(tokens_of(outputs), tokens_of(alone), strict=True)]
    print(f"int{policy}: {sum(same)} of 32 the same")
    first = [got[0] == want[0] for got, want in zip(tokens_of(outputs), tokens_of(alone), strict=True)]
    assert sum(first) >= share * 32


@pytest.mark.parametrize("policy", [0, 8, 4])
def test_quantised_cache_buys_more_blocks(policy: int) -> None:
    with open_engine(quant_policy=policy) as engine:
        stats = engine.stats()
    assert 0.79 < stats.kv_bytes / (2**30 - stats.weight_bytes) <= 0.8
