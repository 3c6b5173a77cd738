"""DecodeSteps and DecodeRows: rows that move on by themselves say what make_batch would have said."""

from __future__ import annotations

import itertools
import random

import pytest
from engine_fakes import MirrorDecoder, make_engine, mirror_greedy, random_decoder, random_prompt, run_all

from lmcourse.config import GenerationConfig, TurbomindEngineConfig
from lmcourse.engine.decode_rows import DecodeRows, ladder
from lmcourse.engine.graphs import choose_recorder

VOCAB = 50


def count_sends(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of what is sent from now on."""
    sent: list[int] = []
    send = DecodeRows._send

    def counted(rows: DecodeRows, size: int) -> None:
        sent.append(size)
        send(rows, size)

    monkeypatch.setattr(DecodeRows, "_send", counted)
    return sent


@pytest.mark.parametrize("most", [1, 2, 3, 8, 9, 100, 128, 129, 256, 1000])
def test_ladder_reaches_and_pads_little(most: int) -> None:
    sizes = ladder(most)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] >= most
    for low, high in itertools.pairwise(sizes):
        assert high <= max(8, 2 * low if low < 16 else low + max(8, low // 8))
    assert len(ladder(256)) < 30


@pytest.mark.parametrize("overlap", [False, True])
def test_rows_are_sent_only_for_new_requests_and_new_blocks(monkeypatch: pytest.MonkeyPatch, overlap: bool) -> None:
    sent = count_sends(monkeypatch)
    engine = make_engine(MirrorDecoder(), graphs=True, overlap=overlap, cache_block_seq_len=8)
    prompts = [[1, 2, 3, 4], [2, 2, 3, 4], [3, 2, 3, 4]]
    for prompt in prompts:
        engine.add(prompt, GenerationConfig(max_new_tokens=22))
    outputs = run_all(engine)
    assert [outputs[key].token_ids for key in range(3)] == [mirror_greedy(prompt, 22, VOCAB) for prompt in prompts]
    # 21 decodes at positions 4 to 24: the first; new blocks at 8, 16 and 24
    assert sent == [4, 4, 4, 4]


def test_prompts_between_decodes_void_the_rows(rng: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = count_sends(monkeypatch)
    engine = make_engine(MirrorDecoder(), graphs=True, overlap=True, cache_block_seq_len=16)
    prompts = [random_prompt(rng, VOCAB, 2, 9) for _ in range(4)]
    for prompt in prompts:
        engine.add(prompt, GenerationConfig(max_new_tokens=20))
        for _ in range(3):
            engine.step()
    outputs = run_all(engine)
    assert outputs[3].token_ids == mirror_greedy(prompts[3], 20, VOCAB)[-len(outputs[3].token_ids) :]
    assert set(sent) >= {1, 2, 4}


@pytest.mark.parametrize("overlap", [False, True])
def test_requests_of_all_sizes_come_and_go(rng: random.Random, overlap: bool) -> None:
    engine = make_engine(MirrorDecoder(), graphs=True, overlap=overlap, cache_max_entry_count=300, max_batch_size=30)
    prompts = [random_prompt(rng, VOCAB, 1, 12) for _ in range(40)]
    lengths = [rng.randint(1, 25) for _ in prompts]
    gens = [
        GenerationConfig(max_new_tokens=length, repetition_penalty=1.2 if place % 9 == 8 else 1.0)
        for place, length in enumerate(lengths)
    ]
    ids = [engine.add(prompt, gen) for prompt, gen in zip(prompts, gens, strict=True)]
    outputs = run_all(engine)
    for place, (request_id, prompt) in enumerate(zip(ids, prompts, strict=True)):
        if place % 9 != 8:
            assert outputs[request_id].token_ids == mirror_greedy(prompt, lengths[place], VOCAB)


def test_seeds_are_the_same_with_and_without_rows(rng: random.Random) -> None:
    prompts = [random_prompt(rng, VOCAB, 1, 12) for _ in range(6)]
    gens = [GenerationConfig(max_new_tokens=15, random_seed=2**63 + n, top_k=12, temperature=1.5) for n in range(6)]
    told = []
    for graphs in (False, True):
        engine = make_engine(MirrorDecoder(), graphs=graphs, overlap=graphs)
        for prompt, gen in zip(prompts, gens, strict=True):
            engine.add(prompt, gen)
        outputs = run_all(engine)
        told.append([outputs[key].token_ids for key in range(6)])
    assert told[0] == told[1]


def test_choose_recorder_none_on_cpu() -> None:
    assert choose_recorder(TurbomindEngineConfig(), MirrorDecoder().device) is None


@pytest.mark.gpu
@pytest.mark.parametrize("budget", [50, 8192])
def test_on_cuda_every_mode_says_what_the_cpu_says(rng: random.Random, budget: int) -> None:
    """Rules of all kinds, so that mixed steps sample inside of their recordings and outside."""
    prompts = [random_prompt(rng, 97, 1, 60) for _ in range(20)]
    kinds = ({}, {"top_k": 9, "top_p": 0.9}, {"temperature": 2.0}, {"repetition_penalty": 1.2}, {"logprobs": 2})
    gens = [
        GenerationConfig(max_new_tokens=rng.randint(1, 40), **(kinds[n % 5] and {"random_seed": n, **kinds[n % 5]}))
        for n in range(20)
    ]
    told = {}
    for device, modes in (("cpu", {}), *(("cuda", {"overlap": o, "cuda_graphs": g}) for o in (0, 1) for g in (0, 1))):
        decoder = random_decoder(0).to(device)
        sizes = {"cache_block_seq_len": 16, "max_prefill_token_num": budget, "session_len": 128}
        with make_engine(decoder, **sizes, **{name: bool(on) for name, on in modes.items()}) as engine:
            ids = [engine.add(prompt, gen) for prompt, gen in zip(prompts, gens, strict=True)]
            outputs = run_all(engine)
        told[device, *modes.values()] = [outputs[key].token_ids for key in ids]
    assert all(tokens == told["cpu",] for tokens in told.values()), told
