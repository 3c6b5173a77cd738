"""The trainable form of tiny-chat: InternLM2's arithmetic over a flat row of tokens, and batched greedy decoding.

    tokens [num_rows * row_length] ── everything but attention is row-blind and sees one flat shape
    attention                      ── reshapes to [num_rows, heads, row_length, head_dim], causal within a row

Because num_rows * row_length is the same number in every batch, the compiled halves of a layer meet one shape only.
Dialogues start at position 0 and are padded on the right, so causal attention alone keeps padding out of sight.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own habit)
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lmcourse.zoo.checkpoint import Sizes

__all__ = ["TrainableDecoder", "causal_attention", "rotary_table"]

_Before = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
_After = Callable[[Tensor, Tensor], Tensor]


def rotary_table(length: int, sizes: Sizes, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin, [length, head_dim] each, halves repeated (the half-split form)."""
    exponents = torch.arange(0, sizes.head_dim, 2, device=device, dtype=torch.float32) / sizes.head_dim
    angles = torch.arange(length, device=device, dtype=torch.float32)[:, None] * sizes.rope_theta**-exponents
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [..., heads, head_dim] turned by cos, sin [..., head_dim]."""
    first, second = x.chunk(2, dim=-1)
    return x * cos[..., None, :].to(x.dtype) + torch.cat([-second, first], dim=-1) * sin[..., None, :].to(x.dtype)


class _Norm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return (scaled * self.weight).to(x.dtype)


class _Attention(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.wq = nn.Linear(sizes.hidden, sizes.num_heads * sizes.head_dim, bias=False)
        self.wk = nn.Linear(sizes.hidden, sizes.num_kv_heads * sizes.head_dim, bias=False)
        self.wv = nn.Linear(sizes.hidden, sizes.num_kv_heads * sizes.head_dim, bias=False)
        self.wo = nn.Linear(sizes.num_heads * sizes.head_dim, sizes.hidden, bias=False)


class _FeedForward(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.w1 = nn.Linear(sizes.hidden, sizes.intermediate, bias=False)
        self.w3 = nn.Linear(sizes.hidden, sizes.intermediate, bias=False)
        self.w2 = nn.Linear(sizes.intermediate, sizes.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.w2(F.silu(self.w1(x)) * self.w3(x))
        return out


class _Layer(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.attention = _Attention(sizes)
        self.attention_norm = _Norm(sizes.hidden, sizes.norm_eps)
        self.ffn_norm = _Norm(sizes.hidden, sizes.norm_eps)
        self.feed_forward = _FeedForward(sizes)

    def before_attention(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [tokens, hidden] → rotated q [tokens, heads, head_dim], rotated k and v [tokens, kv_heads, head_dim]."""
        normed = self.attention_norm(x)
        shape = (*x.shape[:-1], -1, self.sizes.head_dim)
        q, k, v = (part(normed).view(shape) for part in (self.attention.wq, self.attention.wk, self.attention.wv))
        return _rotate(q, cos, sin), _rotate(k, cos, sin), v

    def after_attention(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + self.attention.wo(mixed)
        out: Tensor = x + self.feed_forward(self.ffn_norm(x))
        return out


class _Body(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(sizes.vocab, sizes.hidden)
        self.layers = nn.ModuleList(_Layer(sizes) for _ in range(sizes.num_layers))
        self.norm = _Norm(sizes.hidden, sizes.norm_eps)

    def stack(self) -> list[_Layer]:
        """The layers in their order, as what they are."""
        return [layer for layer in self.layers if isinstance(layer, _Layer)]


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[rows, heads, tokens, head_dim] each, fewer heads in k and v; every token sees itself and those before it."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


class TrainableDecoder(nn.Module):
    """Llama-style weights named so that export only has to interleave wqkv."""

    def __init__(self, sizes: Sizes, *, seed: int) -> None:
        super().__init__()
        self.sizes = sizes
        generator = torch.Generator().manual_seed(seed)
        self.model = _Body(sizes)
        self.output = nn.Linear(sizes.hidden, sizes.vocab, bias=False)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                # Writers into the residual stream start smaller, so that depth does not inflate it.
                shrink = (2 * sizes.num_layers) ** -0.5 if name.endswith(("wo.weight", "w2.weight")) else 1.0
                nn.init.normal_(weight, std=0.02 * shrink, generator=generator)
        self._halves: list[tuple[_Before, _After]] = [
            (layer.before_attention, layer.after_attention) for layer in self.model.stack()
        ]

    def compile_halves(self) -> None:
        """Lets `forward` run compiled halves of the layers; decoding, whose shapes vary, keeps the plain ones."""
        torch._dynamo.config.recompile_limit = 64
        self._halves = [
            (torch.compile(before, dynamic=False), torch.compile(after, dynamic=False))
            for before, after in self._halves
        ]

    def forward(self, tokens: Tensor, row_length: int) -> Tensor:
        """tokens [rows * row_length], rows laid end to end → normed hidden states [rows * row_length, hidden]."""
        return self.from_embeddings(self.model.tok_embeddings(tokens), row_length)

    def from_embeddings(self, x: Tensor, row_length: int) -> Tensor:
        """As `forward`, from what stands for each token [rows * row_length, hidden], a word's row or a picture's."""
        sizes = self.sizes
        rows = x.shape[0] // row_length
        cos, sin = (table.repeat(rows, 1) for table in rotary_table(row_length, sizes, x.device))
        for before, after in self._halves:
            q, k, v = before(x, cos, sin)
            heads = (part.view(rows, row_length, -1, sizes.head_dim).transpose(1, 2) for part in (q, k, v))
            with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]):  # cuDNN would plan anew for every length
                mixed = causal_attention(*heads)
            x = after(x, mixed.transpose(1, 2).reshape(x.shape[0], -1))
        out: Tensor = self.model.norm(x)
        return out
