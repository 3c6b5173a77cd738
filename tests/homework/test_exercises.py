"""Every exercise: its cases are fresh and sound, each known mistake is recognised, hints give no solution away."""

from __future__ import annotations

import inspect
import random

import pytest

from lmcourse.errors import ConfigError
from lmcourse.homework import EXERCISES, Exercise, check, find_exercise
from lmcourse.homework.chat_prompt import join_turns
from lmcourse.homework.decode_limit import reach_limit
from lmcourse.homework.greedy import GREEDY
from lmcourse.homework.online_softmax import attend_at_once
from lmcourse.homework.parameters import INTERNLM2_CHAT_1_8B, tensor_shapes
from lmcourse.homework.score import Outcome
from lmcourse.homework.wqkv import split_by_heads

BY_ID = {exercise.id: exercise for exercise in EXERCISES}
MISTAKES = [(e.id, n) for e in EXERCISES for n in range(len(e.mistakes))]


def fresh_seed() -> int:
    seed = random.SystemRandom().randrange(10**6)
    print("seed", seed)
    return seed


def advice_of(exercise: Exercise, answer: object, seed: int) -> str | None:
    return dict(check(exercise.id, answer, seed=seed).details).get("next step")


def test_registry_is_ordered_and_complete() -> None:
    assert [e.id for e in EXERCISES] == sorted(BY_ID)
    for exercise in EXERCISES:
        assert len(exercise.hints) == 3
        assert len(set(exercise.hints)) == 3
        assert exercise.difficulty in (1, 2, 3)
        assert 5 <= exercise.minutes <= 60
        assert exercise.mistakes


@pytest.mark.parametrize(("exercise_id", "n"), MISTAKES)
def test_known_mistake_fails_and_gets_its_advice(exercise_id: str, n: int) -> None:
    exercise, seed = BY_ID[exercise_id], fresh_seed()
    mistake = exercise.mistakes[n]
    score = check(exercise_id, mistake.answer, seed=seed)
    assert score < 1.0
    assert score.outcome is Outcome.FAILED
    assert advice_of(exercise, mistake.answer, seed) == mistake.advice


@pytest.mark.parametrize("exercise_id", BY_ID)
def test_cases_are_fresh_and_a_seed_repeats_them(exercise_id: str) -> None:
    def shown(seed: int) -> list[str]:
        return [case.shown for case in BY_ID[exercise_id].make_cases(random.Random(seed))]

    seed = fresh_seed()
    assert shown(seed) == shown(seed)
    assert any(shown(seed) != shown(other) for other in range(seed + 1, seed + 4))


@pytest.mark.parametrize("exercise_id", BY_ID)
def test_cases_survive_an_answer_that_changes_its_arguments(exercise_id: str) -> None:
    def vandal(*arguments: object) -> None:
        for argument in arguments:
            if isinstance(argument, list | dict | set):
                argument.clear()

    exercise, seed = BY_ID[exercise_id], fresh_seed()
    for case in exercise.make_cases(random.Random(seed)):
        before = repr(case.make_arguments()[1:])
        vandal(*case.make_arguments())
        assert repr(case.make_arguments()[1:]) == before


def test_parameters_of_internlm2_chat_1_8b_are_the_published_number() -> None:
    first = next(find_exercise("1.1").make_cases(random.Random(0)))
    assert first.expected == 1_889_110_016
    assert tensor_shapes(INTERNLM2_CHAT_1_8B)["model.layers.23.attention.wqkv.weight"] == (4096, 2048)


def test_parameters_agree_with_the_bundled_checkpoint() -> None:
    import json

    from safetensors import safe_open

    from lmcourse.bundled import model_path

    folder = model_path("tiny-chat")
    config = json.loads((folder / "config.json").read_text())
    stored: dict[str, tuple[int, ...]] = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            stored |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    assert stored == tensor_shapes(config)


def test_parameters_agree_with_accounting() -> None:
    """Two countings, written apart: from shapes here, from the spec in accounting.py."""
    from lmcourse.accounting import count_parameters
    from lmcourse.spec import ModelSpec

    for case in find_exercise("1.1").make_cases(random.Random(fresh_seed())):
        (config,) = case.make_arguments()
        spec = ModelSpec(
            family="internlm2",
            hidden=config["hidden_size"],
            num_layers=config["num_hidden_layers"],
            num_heads=config["num_attention_heads"],
            num_kv_heads=config["num_key_value_heads"],
            head_dim=config["hidden_size"] // config["num_attention_heads"],
            intermediate=config["intermediate_size"],
            vocab=config["vocab_size"],
            max_context=2048,
            tie_embeddings=config["tie_word_embeddings"],
        )
        assert count_parameters(spec).total == case.expected, case.shown


def test_split_by_heads_agrees_with_einops() -> None:
    import einops

    for case in find_exercise("2.1").make_cases(random.Random(fresh_seed())):
        wqkv, num_heads, num_kv_heads = case.make_arguments()
        grouped = einops.rearrange(wqkv, "(kv g d) h -> kv g d h", kv=num_kv_heads, g=num_heads // num_kv_heads + 2)
        q, k, v = split_by_heads(wqkv, num_heads, num_kv_heads)
        assert q.equal(einops.rearrange(grouped[:, :-2], "kv g d h -> (kv g d) h"))
        assert k.equal(einops.rearrange(grouped[:, -2], "kv d h -> (kv d) h"))
        assert v.equal(einops.rearrange(grouped[:, -1], "kv d h -> (kv d) h"))


def test_chat_prompt_agrees_with_the_engine_template() -> None:
    from lmcourse.bundled import model_path
    from lmcourse.text.chat_template import find_template

    template = find_template("internlm2", model_path("tiny-chat"))
    for case in find_exercise("2.2").make_cases(random.Random(fresh_seed())):
        (messages,) = case.make_arguments()
        if messages[0]["role"] != "system":  # the engine's template would put its own system message first
            messages = [{"role": "system", "content": "be brief"}, *messages]
        assert template.render(messages) == join_turns(messages)


def test_kv_bytes_agree_with_the_engines_cache() -> None:
    """The pool that the engine would make, measured in bytes."""
    import torch

    from lmcourse.engine.blocks import BlockManager
    from lmcourse.engine.kv_cache import KVCache
    from lmcourse.spec import ModelSpec

    dtypes = {1: torch.int8, 2: torch.float16, 4: torch.float32}
    for case in find_exercise("3.1").make_cases(random.Random(fresh_seed())):
        config, num_tokens, tokens_per_block, element_bytes = case.make_arguments()
        spec = ModelSpec(
            family="internlm2",
            hidden=config["hidden_size"],
            num_layers=config["num_hidden_layers"],
            num_heads=config["num_attention_heads"],
            num_kv_heads=config["num_key_value_heads"],
            head_dim=config["hidden_size"] // config["num_attention_heads"],
            intermediate=1,
            vocab=1,
            max_context=1,
        )
        blocks = BlockManager(-(-num_tokens // tokens_per_block), tokens_per_block)
        pool = KVCache(spec, blocks, dtypes[element_bytes], torch.device("meta"))
        assert pool.num_bytes == case.expected, case.shown


def test_block_allocator_keeps_every_block_in_one_place() -> None:
    refusals = 0
    for case in find_exercise("3.2").make_cases(random.Random(fresh_seed())):
        num_blocks, tokens_per_block, actions = case.make_arguments()
        tables, refused = case.expected
        held = [block for table in tables.values() for block in table]
        assert len(held) == len(set(held)) <= num_blocks, case.shown
        assert set(held) <= set(range(num_blocks))
        lengths = {}
        for request, num_tokens in actions:
            if request not in refused:
                lengths[request] = num_tokens
        for request, num_tokens in lengths.items():
            assert len(tables.get(request, [])) == -(-num_tokens // tokens_per_block), case.shown
        refusals += len(refused)
    assert refusals > 0


def test_online_softmax_expects_what_torch_computes() -> None:
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    torch.manual_seed(fresh_seed())
    q, keys, values = torch.randn(16), torch.randn(9, 16), torch.randn(9, 16)
    wanted = scaled_dot_product_attention(q[None], keys, values)[0]
    assert torch.allclose(attend_at_once(q, keys, values), wanted, atol=1e-6)


def test_online_softmax_accepts_an_answer_in_float64_and_with_tensors() -> None:
    import torch

    def answer(q, blocks):  # type: ignore[no-untyped-def]
        peak, total, weighted = torch.tensor(-torch.inf), torch.tensor(0.0), torch.zeros_like(q)
        for keys, values in blocks:
            scores = keys.double() @ q.double() / q.shape[0] ** 0.5
            higher = torch.maximum(peak, scores.max())
            factor, weights = (peak - higher).exp(), (scores - higher).exp()
            total = factor * total + weights.sum()
            weighted = factor * weighted + weights @ values.double()
            peak = higher
        return weighted / total

    assert check("3.3", answer, seed=fresh_seed()) == 1.0


def test_greedy_stops_a_loop_that_never_ends() -> None:
    def endless(next_logits, prompt_ids, stop_ids, max_new_tokens):  # type: ignore[no-untyped-def]
        while True:
            next_logits(prompt_ids)

    score = check("1.2", endless)
    assert score == 0.0
    assert "the loop does not end" in repr(score)


def test_greedy_accepts_tensors_among_the_tokens() -> None:
    def answer(next_logits, prompt_ids, stop_ids, max_new_tokens):  # type: ignore[no-untyped-def]
        new = []
        for _ in range(max_new_tokens):
            token = next_logits(prompt_ids + new).argmax()
            if int(token) in stop_ids:
                break
            new.append(token)
        return new

    assert check("1.2", answer) == 1.0


def test_greedy_cases_cover_stop_limit_and_nothing() -> None:
    lengths = [len(case.expected) for case in GREEDY.make_cases(random.Random(fresh_seed()))]
    assert lengths[2] == 0  # the first token is a stop token
    assert lengths[4] == 0  # max_new_tokens is zero
    assert max(lengths) >= 3


def test_decode_limit_agrees_with_accounting() -> None:
    """A model without vectors, and without attention's own arithmetic, which the exercise leaves out."""
    from lmcourse.accounting import Device, Storage, count_kv_bytes_per_token, count_parameters, decode_seconds
    from lmcourse.spec import ModelSpec

    spec = ModelSpec(
        family="internlm2", hidden=2048, num_layers=24, num_heads=16, num_kv_heads=8, head_dim=128, intermediate=8192,
        vocab=92544, max_context=32768,
    )  # fmt: skip
    parameters, storage = count_parameters(spec), Storage(vector_bytes=0)
    weights = parameters.body + parameters.head
    model = {
        "weights": weights, "weight_bytes": 2 * weights, "kv_bytes_per_token": count_kv_bytes_per_token(spec, storage)
    }  # fmt: skip
    machine = {"bytes_per_second": 4.2e12, "flops_per_second": 752e12}
    for batch in (1, 64):
        seconds = decode_seconds(spec, Device(*machine.values()), batch=batch, context=256, storage=storage)
        assert reach_limit(model, machine, batch, 256) == pytest.approx(batch / seconds)


def test_unknown_exercise_is_named() -> None:
    with pytest.raises(ConfigError, match=r"1\.1, 1\.2, 2\.1, 2\.2, 3\.1, 3\.2, 3\.3"):
        check("7.7", print)


def test_hints_never_hold_a_reference_function() -> None:
    for exercise in EXERCISES:
        module = inspect.getmodule(exercise.make_cases)
        assert module is not None
        for hint in exercise.hints:
            assert "def " not in hint
            assert "\n    " not in hint
