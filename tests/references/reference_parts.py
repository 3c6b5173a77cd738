"""Float64 pieces of transformers, for whole prompts at once and no cache; the references of families are made of them.

Nothing here comes from the package under test. A reference is a function logits(config, tensors, ids) → [ids, vocab]
that reads a checkpoint as its publisher wrote it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


def affine(tensors: Tensors, name: str, x: Tensor) -> Tensor:
    """x · Wᵀ + b, if there is a b."""
    y = x @ tensors[f"{name}.weight"].double().T
    return y + tensors[f"{name}.bias"].double() if f"{name}.bias" in tensors else y


def rms_norm(tensors: Tensors, name: str, x: Tensor, eps: float) -> Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * tensors[f"{name}.weight"].double()


def layer_norm(tensors: Tensors, name: str, x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    unit = centred / torch.sqrt((centred * centred).mean(-1, keepdim=True) + eps)
    y = unit * tensors[f"{name}.weight"].double()
    return y + tensors[f"{name}.bias"].double() if f"{name}.bias" in tensors else y


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def turn_halves(x: Tensor, base: float, divide_by: float = 1.0) -> Tensor:
    """x [tokens, heads, d]: feature i and i + d/2 turn by position / divide_by · base^(-2i/d)."""
    tokens, _, d = x.shape
    angles = torch.arange(tokens, dtype=torch.float64)[:, None] / divide_by
    angles = angles / base ** (torch.arange(0, d, 2, dtype=torch.float64) / d)
    a, b = x[..., : d // 2], x[..., d // 2 :]
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)


def turn_neighbours(x: Tensor, base: float, divide_by: float = 1.0) -> Tensor:
    """x [tokens, heads, d]: features 2i and 2i + 1 turn as one complex number."""
    tokens, heads, d = x.shape
    angles = torch.arange(tokens, dtype=torch.float64)[:, None] / divide_by
    angles = angles / base ** (torch.arange(0, d, 2, dtype=torch.float64) / d)
    numbers = torch.view_as_complex(x.reshape(tokens, heads, d // 2, 2).contiguous())
    return torch.view_as_real(numbers * torch.polar(torch.ones(()).double(), angles)[:, None]).flatten(2)


def attend(q: Tensor, k: Tensor, v: Tensor, *, slopes: list[float] | None = None) -> Tensor:
    """q [tokens, heads, d], k and v [tokens, kv heads, d] → [tokens, heads · d]; slopes act on scaled scores."""
    tokens, heads, d = q.shape
    out = []
    for head in range(heads):
        kv = head // (heads // k.shape[1])
        scores = q[:, head] @ k[:, kv].T / math.sqrt(d)
        if slopes is not None:
            scores = scores + slopes[head] * torch.arange(tokens, dtype=torch.float64)
        future = torch.ones(tokens, tokens).triu(1).bool()
        out.append(torch.softmax(scores.masked_fill(future, -math.inf), -1) @ v[:, kv])
    return torch.cat(out, -1)


def slopes_of(heads: int) -> list[float]:
    """ALiBi's geometric sequence; between powers of two every other one of the next power's."""

    def power_slopes(count: int) -> list[float]:
        first = 2 ** (-(2 ** -(math.log2(count) - 3)))
        return [first ** (i + 1) for i in range(count)]

    below = 2 ** math.floor(math.log2(heads))
    return power_slopes(below) + power_slopes(2 * below)[0::2][: heads - below]
