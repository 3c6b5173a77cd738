"""Engine on decoders that notice every mistake: order, batching, chunking, preemption, interruption, the end."""

from __future__ import annotations

import gc
import random
import weakref

import pytest
import torch
from engine_fakes import (
    MirrorDecoder,
    ScriptedDecoder,
    generate,
    make_engine,
    mirror_greedy,
    mirror_next_logits,
    random_prompt,
    run_all,
)
from engine_runs import run_engine_workloads

from lmcourse.config import GenerationConfig, TurbomindEngineConfig
from lmcourse.engine import Answer, Engine
from lmcourse.errors import ConfigError, EngineClosedError, LmcourseError, MemoryBudgetError, PromptError

VOCAB = 50


def greedy(count: int, **settings: object) -> GenerationConfig:
    return GenerationConfig(max_new_tokens=count, **settings)


def test_step_one_request_against_the_oracle(rng) -> None:
    engine = make_engine(MirrorDecoder())
    prompt = random_prompt(rng, VOCAB)
    output = generate(engine, prompt, greedy(40))
    assert output.token_ids == mirror_greedy(prompt, 40, VOCAB)
    assert (output.finish_reason, output.text, output.logprobs) == ("length", "", None)


@pytest.mark.parametrize("budget", [1, 7, 40, 8192])
@pytest.mark.parametrize("num_blocks", [18, 40, 400])
def test_step_32_requests_any_budget_any_cache(rng, budget: int, num_blocks: int) -> None:
    engine = make_engine(MirrorDecoder(), max_prefill_token_num=budget, cache_max_entry_count=num_blocks)
    prompts = [random_prompt(rng, VOCAB) for _ in range(32)]
    ids = [engine.add(prompt, greedy(rng.randint(1, 30))) for prompt in prompts]
    outputs = run_all(engine)
    for request_id, prompt in zip(ids, prompts, strict=True):
        told = outputs[request_id].token_ids
        assert told == mirror_greedy(prompt, len(told), VOCAB)
    stats = engine.stats()
    assert stats.num_sampled_tokens == sum(len(output.token_ids) for output in outputs.values())
    if num_blocks == 18 and budget > 1:
        assert stats.num_preemptions > 0


def test_step_hands_out_in_order_of_arrival() -> None:
    engine = make_engine(MirrorDecoder(), max_prefill_token_num=16)
    ids = [engine.add([1] * length, greedy(3)) for length in (9, 1, 1, 5)]
    while engine.has_work:
        told = [output.request_id for output in engine.step()]
        assert told == sorted(told)
    assert ids == [0, 1, 2, 3]


def test_step_without_work_is_empty() -> None:
    engine = make_engine(MirrorDecoder())
    assert engine.step() == []
    assert engine.stats().num_steps == 0


def test_100_random_workloads_match_the_sequential_oracle() -> None:
    seed = random.SystemRandom().randrange(2**32)
    print("first seed", seed)
    run_engine_workloads(100, seed).check(at_least=100)


def test_seeded_request_is_the_same_in_any_company(rng) -> None:
    prompt = random_prompt(rng, VOCAB)
    gen = greedy(25, random_seed=11, temperature=1.2, top_k=20, top_p=0.95)
    alone = generate(make_engine(MirrorDecoder()), prompt, gen).token_ids
    assert alone != generate(make_engine(MirrorDecoder()), prompt, greedy(25, random_seed=12)).token_ids
    crowd = make_engine(MirrorDecoder(), cache_max_entry_count=20, max_prefill_token_num=30)
    others = [crowd.add(random_prompt(rng, VOCAB), greedy(20, do_sample=True)) for _ in range(20)]
    request_id = crowd.add(prompt, gen)
    outputs = run_all(crowd)
    assert outputs[request_id].token_ids == alone
    assert crowd.stats().num_preemptions > 0
    assert set(outputs) == {*others, request_id}


def test_logprobs_come_one_per_token(rng) -> None:
    prompt = random_prompt(rng, VOCAB)
    engine = make_engine(MirrorDecoder(), cache_max_entry_count=14)
    asked = engine.add(prompt, greedy(9, logprobs=3, repetition_penalty=1.5))
    silent = engine.add(prompt, greedy(9))
    outputs = run_all(engine)
    assert outputs[silent].logprobs is None
    told = outputs[asked]
    assert len(told.logprobs) == len(told.token_ids) == 9
    for place, (token_id, report) in enumerate(zip(told.token_ids, told.logprobs, strict=True)):
        raw = torch.from_numpy(mirror_next_logits(prompt, told.token_ids[:place], VOCAB)).log_softmax(-1)
        assert token_id in report
        assert 3 <= len(report) <= 4
        for key, value in report.items():
            assert value == pytest.approx(raw[key].item(), abs=1e-5)


def test_stop_id_ends_a_request_and_frees_its_blocks() -> None:
    decoder = ScriptedDecoder([5, 6, 2, 7], vocab=50, prompt_len=3, eos_ids=(2,))
    engine = make_engine(decoder)
    output = generate(engine, [1, 1, 1])
    assert (output.token_ids, output.finish_reason) == ([5, 6], "stop")
    assert engine.stats().num_free_blocks == 64
    ignoring = generate(engine, [1, 1, 1], greedy(6, ignore_eos=True))
    assert (ignoring.token_ids, ignoring.finish_reason) == ([5, 6, 2, 7, 5, 6], "length")
    templated = generate(engine, [1, 1, 1], stop_ids=frozenset({6}))
    assert (templated.token_ids, templated.finish_reason) == ([5], "stop")


def test_min_new_tokens_puts_the_stop_off() -> None:
    engine = make_engine(ScriptedDecoder([2], vocab=50, prompt_len=3, eos_ids=(2,)))
    output = generate(engine, [1, 1, 1], greedy(10, min_new_tokens=4))
    assert len(output.token_ids) == 4
    assert 2 not in output.token_ids
    assert output.finish_reason == "stop"


def test_text_streams_without_halves_and_without_the_stop_string(tokenizer) -> None:
    text = "上海 hello 🙂 wEND more"
    script = tokenizer.encode(text, add_bos=False)
    engine = make_engine(ScriptedDecoder(script, vocab=tokenizer.vocab_size, prompt_len=1), tokenizer)
    engine.add([9], greedy(100, stop_words=["END"]))
    streamed = ""
    while engine.has_work:
        for output in engine.step():
            streamed += output.text
            assert text.startswith(streamed)
            assert "E" not in streamed
    assert streamed == "上海 hello 🙂 w"


def test_special_tokens_show_only_on_request(tokenizer) -> None:
    script = [*tokenizer.encode("a", add_bos=False), 3, *tokenizer.encode("b", add_bos=False)]
    engine = make_engine(ScriptedDecoder(script, vocab=tokenizer.vocab_size, prompt_len=1), tokenizer)
    assert generate(engine, [9], greedy(3)).text == "ab"
    assert generate(engine, [9], greedy(3, skip_special_tokens=False)).text == "a<|im_end|>b"
    assert generate(engine, [9], greedy(3, stop_words=["<|im_end|>"])).text == "a"


def test_session_len_caps_the_answer() -> None:
    engine = make_engine(MirrorDecoder(), session_len=12)
    output = generate(engine, [1] * 8, greedy(512))
    assert (len(output.token_ids), output.finish_reason) == (4, "length")
    with pytest.raises(PromptError, match="too long"):
        engine.add([1] * 12)
    engine.check()


def test_session_of_the_whole_cache_runs_beside_others() -> None:
    engine = make_engine(MirrorDecoder(), cache_max_entry_count=8, session_len=32)
    ids = [engine.add([1, 2, 3], greedy(512)) for _ in range(5)]
    outputs = run_all(engine)
    assert [len(outputs[key].token_ids) for key in ids] == [29] * 5
    assert outputs[ids[0]].token_ids == mirror_greedy([1, 2, 3], 29, VOCAB)


def test_engine_reduces_the_session_to_the_cache() -> None:
    with pytest.warns(UserWarning, match="reduced from 256 to 32"):
        engine = Engine(MirrorDecoder(), None, TurbomindEngineConfig(cache_max_entry_count=8, cache_block_seq_len=4))
    assert engine.session_len == 32


def test_engine_too_small_a_cache() -> None:
    with pytest.raises(MemoryBudgetError, match="next to no blocks"):
        make_engine(MirrorDecoder(), cache_max_entry_count=1)


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("at_call", range(6))
def test_interrupted_step_loses_nothing(rng, kind: type[BaseException], at_call: int) -> None:
    decoder = MirrorDecoder()
    engine = make_engine(decoder, max_prefill_token_num=20, cache_max_entry_count=16)
    prompts = [random_prompt(rng, VOCAB, 5, 20) for _ in range(6)]
    for prompt in prompts:
        engine.add(prompt, greedy(8))
    told: dict[int, list[int]] = {key: [] for key in range(6)}

    def interrupt() -> None:
        if decoder.num_calls == at_call + 1:
            raise kind("now")

    decoder.before_forward = interrupt
    num_interrupts = 0
    while engine.has_work:
        try:
            for output in engine.step():
                told[output.request_id] += output.token_ids
        except kind:
            num_interrupts += 1
        engine.check()
    assert num_interrupts == 1
    assert told == {key: mirror_greedy(prompt, 8, VOCAB) for key, prompt in enumerate(prompts)}


@pytest.mark.parametrize("where", ["make_batch", "choose", "Fetch"])
def test_failure_anywhere_in_a_step_is_mended(rng, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    from lmcourse.engine import runner as module

    engine = make_engine(MirrorDecoder())
    prompts = [random_prompt(rng, VOCAB) for _ in range(3)]
    for prompt in prompts:
        engine.add(prompt, greedy(5))
    engine.step()

    def fail(*_: object, **__: object) -> None:
        raise OSError("no more")

    with monkeypatch.context() as patch:
        patch.setattr(module, where, fail)
        with pytest.raises(OSError, match="no more"):
            engine.step()
    engine.check()
    outputs = run_all(engine)
    assert [outputs[key].token_ids for key in range(3)] == [mirror_greedy(p, 5, VOCAB)[1:] for p in prompts]


@pytest.mark.parametrize("pushes", range(4))
def test_interruption_while_tokens_are_taken_over(rng, monkeypatch: pytest.MonkeyPatch, pushes: int) -> None:
    engine = make_engine(MirrorDecoder())
    prompts = [random_prompt(rng, VOCAB) for _ in range(4)]
    for prompt in prompts:
        engine.add(prompt, greedy(3))
    engine.step()
    left = iter(range(pushes))
    push = Answer.push

    def interrupt(answer: Answer, *arguments: object) -> None:
        push(answer, *arguments)
        if next(left, None) is None:
            raise KeyboardInterrupt

    monkeypatch.setattr(Answer, "push", interrupt)
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    monkeypatch.undo()
    engine.check()
    outputs = run_all(engine)
    assert [outputs[key].token_ids for key in range(4)] == [mirror_greedy(p, 3, VOCAB)[1:] for p in prompts]


def test_not_finite_logits_name_the_request_and_spare_the_others(rng) -> None:
    decoder = MirrorDecoder()
    engine = make_engine(decoder)
    prompts = [random_prompt(rng, VOCAB, low=2) for _ in range(3)]  # one token alone would be laid out first
    ids = [engine.add(prompt, greedy(4)) for prompt in prompts]
    clean = decoder.logits

    def poisoned(hidden: torch.Tensor) -> torch.Tensor:
        logits = clean(hidden)
        if len(logits) == 3:
            logits[1] = torch.nan
        return logits

    decoder.logits = poisoned
    with pytest.raises(LmcourseError, match="request 1") as caught:
        engine.step()
    assert "not finite" in caught.value.what
    engine.abort(ids[1])
    outputs = run_all(engine)
    assert set(outputs) == {0, 2}
    assert outputs[2].token_ids == mirror_greedy(prompts[2], 4, VOCAB)


def test_abort_running_waiting_finished_and_unknown(rng) -> None:
    engine = make_engine(MirrorDecoder(), max_batch_size=2)
    ids = [engine.add(random_prompt(rng, VOCAB), greedy(5)) for _ in range(4)]
    engine.step()
    engine.abort(ids[0])
    engine.abort(ids[3])
    engine.abort(ids[3])
    engine.check()
    outputs = run_all(engine)
    assert set(outputs) == {ids[1], ids[2]}
    engine.abort(ids[1])
    with pytest.raises(PromptError, match="no such request"):
        engine.abort(99)
    assert engine.stats().num_free_blocks == 64


@pytest.mark.parametrize(
    ("prompt", "gen", "error"),
    [([], {}, PromptError), ([VOCAB], {}, PromptError), ([1], {"stop_words": ["x"]}, ConfigError)],
)
def test_add_refused_leaves_no_trace(prompt: list[int], gen: dict, error: type[Exception]) -> None:
    engine = make_engine(MirrorDecoder())
    running = engine.add([1, 2], greedy(4))
    engine.step()
    with pytest.raises(error):
        engine.add(prompt, GenerationConfig(**gen))
    engine.check()
    assert engine.stats().num_running == 1, "a refused prompt must not disturb running requests"
    assert engine.add([3]) == running + 1


def test_close_frees_memory_and_closes_every_door() -> None:
    decoder = MirrorDecoder()
    engine = make_engine(decoder)
    engine.add([1, 2])
    engine.step()
    pool, weights = weakref.ref(engine._runner.kv), weakref.ref(decoder)
    del decoder
    engine.close()
    engine.close()
    gc.collect()
    assert pool() is None
    assert weights() is None
    assert "closed" in repr(engine)
    calls = [
        lambda: engine.add([1]), engine.step, lambda: engine.abort(0), engine.stats, engine.check,
        lambda: engine.has_work, engine.__enter__,
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(EngineClosedError):
            call()


def test_context_manager_closes_on_error() -> None:
    with pytest.raises(ZeroDivisionError), make_engine(MirrorDecoder()) as engine:
        raise ZeroDivisionError
    with pytest.raises(EngineClosedError):
        engine.step()


def test_stats_at_rest() -> None:
    engine = make_engine(MirrorDecoder())
    stats = engine.stats()
    assert (stats.num_blocks, stats.num_free_blocks, stats.num_cached_blocks, stats.tokens_per_block) == (64, 64, 0, 4)
    assert stats.kv_bytes == 64 * 4 * 2 * 2 * 2 * 4
    assert stats.num_running == stats.num_waiting == stats.num_steps == stats.num_sampled_tokens == 0


def test_from_folder_without_a_model(tmp_path) -> None:
    with pytest.raises(LmcourseError):
        Engine.from_folder(tmp_path)
