"""Exercise 3.1: how many bytes the KV cache of one request takes, in whole blocks.

Lesson: 3 (the price of a token)
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from typing import Any

from lmcourse.homework.exercise import Case, Exercise, Mistake

__all__ = ["KV_BYTES"]

INTERNLM2_CHAT_1_8B = {
    "hidden_size": 2048,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
}
Config = dict[str, int]


def _bytes(config: Config, num_blocks: int, tokens_per_block: int, element_bytes: int) -> int:
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    per_token = 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * head_dim * element_bytes
    return num_blocks * tokens_per_block * per_token


def _kv_bytes(config: Config, num_tokens: int, tokens_per_block: int, element_bytes: int) -> int:
    return _bytes(config, -(-num_tokens // tokens_per_block), tokens_per_block, element_bytes)


def _random_config(rng: random.Random) -> Config:
    num_kv_heads = rng.choice([1, 2, 4, 8])
    num_heads = num_kv_heads * rng.choice([2, 4, 7])
    return {
        "hidden_size": num_heads * rng.choice([32, 64, 128]),
        "num_hidden_layers": rng.randrange(5, 48, 2),  # odd: no wrong factor looks like another
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_kv_heads,
    }


def _make_cases(rng: random.Random) -> Iterator[Case]:
    inputs: list[tuple[Config, int, int, int]] = []
    for number in range(7):
        tokens_per_block = rng.choice([8, 16, 64, 100])
        full = tokens_per_block * rng.randint(3, 30)  # of fewer blocks, one more or less looks like a wrong factor
        num_tokens = full if number < 2 else full - rng.randint(1, tokens_per_block - 1)
        inputs.append((_random_config(rng), num_tokens, tokens_per_block, 4 if number % 2 else 1))
    inputs.append((INTERNLM2_CHAT_1_8B, 1000, 64, 2))
    for config, num_tokens, tokens_per_block, element_bytes in inputs:
        shown = f"{config}, num_tokens={num_tokens}, tokens_per_block={tokens_per_block}, element_bytes={element_bytes}"

        def arguments(config: Config, *rest: int) -> tuple[Any, ...]:
            return dict(config), *rest

        given = (config, num_tokens, tokens_per_block, element_bytes)
        yield Case(shown, partial(arguments, *given), _kv_bytes(*given))


def _exact_tokens(config: Config, num_tokens: int, tokens_per_block: int, element_bytes: int) -> int:
    return _bytes(config, num_tokens, 1, element_bytes)


def _rounds_down(config: Config, num_tokens: int, tokens_per_block: int, element_bytes: int) -> int:
    return _bytes(config, num_tokens // tokens_per_block, tokens_per_block, element_bytes)


def _always_one_more(config: Config, num_tokens: int, tokens_per_block: int, element_bytes: int) -> int:
    return _bytes(config, num_tokens // tokens_per_block + 1, tokens_per_block, element_bytes)


def _keys_only(*given: Any) -> int:
    return _kv_bytes(*given) // 2


def _one_layer(config: Config, *rest: int) -> int:
    return _kv_bytes({**config, "num_hidden_layers": 1}, *rest)


def _every_query_head(config: Config, *rest: int) -> int:
    return _kv_bytes(config, *rest) * config["num_attention_heads"] // config["num_key_value_heads"]


def _elements(config: Config, num_tokens: int, tokens_per_block: int, element_bytes: int) -> int:
    return _kv_bytes(config, num_tokens, tokens_per_block, 1)


KV_BYTES = Exercise(
    id="3.1",
    title="The price of a conversation",
    signature="kv_bytes(config, num_tokens, tokens_per_block, element_bytes) → bytes",
    difficulty=1,
    minutes=10,
    hints=(
        "Ask what is stored for one token in one layer, then how many layers there are, then how many token slots the "
        "request owns. Slots come in whole blocks.",
        "One token in one layer: a key and a value for each key/value head, head_dim numbers each, with head_dim = "
        "hidden_size / num_attention_heads. Query heads are not stored.",
        "Blocks are num_tokens / tokens_per_block, rounded up: -(-a // b) rounds up in Python. Multiply: blocks × "
        "tokens_per_block × 2 × layers × key/value heads × head_dim × element_bytes.",
    ),
    make_cases=_make_cases,
    mistakes=(
        Mistake(_exact_tokens, "that is exact to the token; memory is handed out in whole blocks, so round up"),
        Mistake(_rounds_down, "the last, partly filled block is missing: round up, not down"),
        Mistake(_always_one_more, "a request that fills its blocks exactly has one block too many"),
        Mistake(_keys_only, "that is half of it: keys *and* values are stored"),
        Mistake(_one_layer, "that is one layer; every layer has keys and values of its own"),
        Mistake(
            _every_query_head, "query heads are not stored: count num_key_value_heads, which several of them share"
        ),
        Mistake(_elements, "that is a number of elements; each takes element_bytes"),
    ),
)
