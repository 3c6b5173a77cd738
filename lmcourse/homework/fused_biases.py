"""Exercise 8.2: read a layer's attention as Qwen2 stores it, biases and all, into the engine's one fused matrix.

    q_proj.weight, q_proj.bias ┐
    k_proj.weight, k_proj.bias ├──▶ weight [Q | K | V] rows, bias [Q | K | V]; no bias in the file: None
    v_proj.weight, v_proj.bias ┘

Lesson: 8 (add a family in one row)
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from lmcourse.homework.exercise import Case, Exercise, Mistake

if TYPE_CHECKING:
    import torch

__all__ = ["FUSED_BIASES"]

Tensors = dict[str, "torch.Tensor"]
_Fused = tuple["torch.Tensor", "torch.Tensor | None"]


def _fuse(tensors: Tensors, prefix: str, parts: str = "qkv") -> _Fused:
    import torch

    weight = torch.cat([tensors[f"{prefix}.{part}_proj.weight"] for part in parts])
    if f"{prefix}.q_proj.bias" not in tensors:
        return weight, None
    return weight, torch.cat([tensors[f"{prefix}.{part}_proj.bias"] for part in parts])


_FILE_ORDERS = ("ovkq", "vqok", "kvqo", "vkoq")  # none to rely on, and none that looks like another mistake


def _make_cases(rng: random.Random) -> Iterator[Case]:
    for number, (heads, kv_heads, has_bias) in enumerate(
        ((4, 2, True), (6, 1, True), (3, 3, True), (4, 2, False), (5, 5, True), (2, 1, False), (8, 2, True))
    ):
        yield _make_case(rng, number, (heads, kv_heads), has_bias=has_bias)


def _make_case(rng: random.Random, layer: int, heads: tuple[int, int], *, has_bias: bool) -> Case:
    import torch

    generator = torch.Generator().manual_seed(rng.randrange(2**32))
    head_dim, hidden, prefix = rng.choice([2, 4]), rng.choice([6, 9]), f"model.layers.{layer}.self_attn"
    rows = {"q": heads[0] * head_dim, "k": heads[1] * head_dim, "v": heads[1] * head_dim, "o": hidden}
    tensors: Tensors = {}
    for part in rng.choice(_FILE_ORDERS):
        count, width = rows[part], rows["q"] if part == "o" else hidden
        tensors[f"{prefix}.{part}_proj.weight"] = torch.randn(count, width, generator=generator)
        if has_bias and part != "o":
            tensors[f"{prefix}.{part}_proj.bias"] = torch.randn(count, generator=generator)
    shown = f"{heads[0]} query and {heads[1]} kv heads of {head_dim}, {'with' if has_bias else 'no'} biases, {prefix!r}"
    return Case(shown, partial(_copied, tensors, prefix), _fuse(tensors, prefix))


def _file_parts(rng: random.Random) -> list[str]:
    """A file has no order to rely on, and none here in which q, k, v come as a known mistake has them."""
    while True:
        parts = rng.sample("qkvo", 4)
        if "".join(part for part in parts if part != "o") not in ("qkv", "kqv", "qvk"):
            return parts


def _copied(tensors: Tensors, prefix: str) -> tuple[Tensors, str]:
    return {name: tensor.clone() for name, tensor in tensors.items()}, prefix


def _no_bias(tensors: Tensors, prefix: str) -> _Fused:
    return _fuse(tensors, prefix)[0], None


def _zeros_for_none(tensors: Tensors, prefix: str) -> _Fused:
    weight, bias = _fuse(tensors, prefix)
    return weight, weight.new_zeros(weight.shape[0]) if bias is None else bias


def _file_order(tensors: Tensors, prefix: str) -> _Fused:
    parts = "".join(name.rsplit(".", 2)[1][0] for name in tensors if name.endswith("_proj.weight"))
    return _fuse(tensors, prefix, parts.replace("o", ""))


FUSED_BIASES = Exercise(
    id="8.2",
    title="Biases along with the rows",
    signature="fuse_qkv(tensors, prefix) → (weight, bias or None)",
    difficulty=1,
    minutes=12,
    hints=(
        "A bias is one number per row of its matrix. Whatever happens to the rows has to happen to the biases too.",
        "Stack the three weights one below the other: q, then k, then v, whatever order the dict has. Do the same with "
        "the three biases, if this family's file has any.",
        "torch.cat([tensors[f'{prefix}.{part}_proj.weight'] for part in 'qkv']) is the weight; the same line with "
        "bias gives the bias, and `f'{prefix}.q_proj.bias' in tensors` says whether there is one.",
    ),
    make_cases=_make_cases,
    mistakes=(
        Mistake(_no_bias, "the weight is right; this file also has biases, which would silently be left out"),
        Mistake(_zeros_for_none, "a family without biases gets None: the engine then leaves the addition out"),
        Mistake(_file_order, "the parts are in the order of the file; the engine wants q, k, v"),
        Mistake(partial(_fuse, parts="kqv"), "the order of the parts is q, k, v"),
        Mistake(partial(_fuse, parts="qvk"), "k and v are exchanged"),
    ),
)
