"""Exercise 1.1: count the weights of an InternLM2 model from its config, before anything is loaded.

The reference lists every tensor of the checkpoint with its shape and adds the products up. It is written on its own,
apart from accounting.py, so that the two can be held against each other.

Lesson: 1 (will it fit?)
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from functools import partial
from typing import Any

from lmcourse.homework.exercise import Case, Exercise, Mistake

__all__ = ["PARAMETERS", "tensor_shapes"]

INTERNLM2_CHAT_1_8B = {
    "hidden_size": 2048,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "intermediate_size": 8192,
    "vocab_size": 92544,
    "tie_word_embeddings": False,
}


def tensor_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every stored tensor of an InternLM2 checkpoint → its shape [rows, columns]."""
    hidden, intermediate = config["hidden_size"], config["intermediate_size"]
    head_dim = hidden // config["num_attention_heads"]
    qkv_rows = (config["num_attention_heads"] + 2 * config["num_key_value_heads"]) * head_dim
    shapes: dict[str, tuple[int, ...]] = {"model.tok_embeddings.weight": (config["vocab_size"], hidden)}
    for n in range(config["num_hidden_layers"]):
        layer = {
            "attention.wqkv.weight": (qkv_rows, hidden),
            "attention.wo.weight": (hidden, hidden),
            "feed_forward.w1.weight": (intermediate, hidden),
            "feed_forward.w3.weight": (intermediate, hidden),
            "feed_forward.w2.weight": (hidden, intermediate),
            "attention_norm.weight": (hidden,),
            "ffn_norm.weight": (hidden,),
        }
        shapes |= {f"model.layers.{n}.{name}": shape for name, shape in layer.items()}
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["output.weight"] = (config["vocab_size"], hidden)
    return shapes


def _count(config: dict[str, Any], *, without: tuple[str, ...] = ()) -> int:
    shapes = tensor_shapes(config)
    return sum(math.prod(shape) for name, shape in shapes.items() if not any(part in name for part in without))


def _random_config(rng: random.Random) -> dict[str, Any]:
    num_kv_heads = rng.choice([1, 2, 3, 5])
    num_heads = num_kv_heads * rng.choice([1, 2, 4, 7])
    hidden = num_heads * rng.choice([16, 64, 96])
    return {
        "hidden_size": hidden,
        "num_hidden_layers": rng.randint(1, 40),
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_kv_heads,
        "intermediate_size": rng.randint(hidden, 4 * hidden),
        "vocab_size": rng.randint(100, 120_000),
        "tie_word_embeddings": rng.random() < 0.4,
    }


def _make_cases(rng: random.Random) -> Iterator[Case]:
    fresh = [_random_config(rng) for _ in range(7)]
    fresh[0]["tie_word_embeddings"], fresh[1]["tie_word_embeddings"] = False, True
    for config in (INTERNLM2_CHAT_1_8B, *fresh):
        shown = ", ".join(f"{name}={value}" for name, value in config.items())
        yield Case(shown, partial(lambda given: (dict(given),), config), _count(config))


def _with_full_kv(config: dict[str, Any]) -> int:
    return _count({**config, "num_key_value_heads": config["num_attention_heads"]})


def _always_untied(config: dict[str, Any]) -> int:
    return _count({**config, "tie_word_embeddings": False})


PARAMETERS = Exercise(
    id="1.1",
    title="Count the weights",
    signature="count_parameters(config) → number of parameters",
    difficulty=1,
    minutes=15,
    hints=(
        "A parameter is one number in one tensor of the checkpoint. Write the tensors down first: one table for the "
        "whole model (embedding, final norm, output head), one for a single layer. The count is a sum of rows × "
        "columns.",
        "A layer has five matrices and two norms. Three matrices connect hidden_size and intermediate_size. wo is "
        "hidden × hidden. wqkv is fused: its rows are all query heads, then one key and one value head for each "
        "*key/value* head, every head head_dim = hidden_size / num_attention_heads rows high.",
        "layer = (heads + 2·kv_heads)·head_dim·hidden + hidden·hidden + 3·intermediate·hidden + 2·hidden. To all "
        "layers add vocab·hidden for the embedding, hidden for the last norm, and vocab·hidden again for the output "
        "head, unless tie_word_embeddings says that the head is the embedding.",
    ),
    make_cases=_make_cases,
    mistakes=(
        Mistake(
            _with_full_kv, "keys and values were counted for every query head; this model has fewer key/value heads"
        ),
        Mistake(_always_untied, "with tie_word_embeddings the output head is the embedding table: it is stored once"),
        Mistake(partial(_count, without=("output.weight",)), "the output head is missing, though it is not tied here"),
        Mistake(partial(_count, without=("norm",)), "the norms have weights too: two in each layer and one at the end"),
        Mistake(partial(_count, without=("model.norm",)), "the last norm, after all layers, is missing"),
        Mistake(partial(_count, without=("w3",)), "the MLP has three matrices (gate w1, up w3, down w2), not two"),
        Mistake(partial(_count, without=("wo.",)), "attention has an output projection wo beside wqkv"),
        Mistake(lambda config: 2 * _count(config), "these are bytes in fp16; the parameters were asked for"),
    ),
)
