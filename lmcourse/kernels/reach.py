"""Reach: what a score loses with distance, and which keys a token does not see, in plain torch.

    score' = score - slope of the head · distance          ALiBi (arXiv 2108.12409 §3), after the score was scaled
    unseen: distance < 0 (the future) and, with a window, distance ≥ window

The Triton kernels do the same tile by tile (kv_tiles.py).

Lesson: 8 (what differs between families)
"""

from __future__ import annotations

import torch
from torch import Tensor

from lmcourse.kernels.operands import Reach

__all__ = ["attend_plainly", "bend_scores", "is_everything", "unseen"]


def is_everything(reach: Reach, context: int) -> bool:
    """Whether within so many tokens each sees all before it, and scores are what queries and keys make of them."""
    return reach.slopes is None and (reach.window is None or context <= reach.window)


def unseen(distance: Tensor, reach: Reach) -> Tensor:
    """bool, of the distances' shape: position of the query less position of the key."""
    future = distance < 0
    return future if reach.window is None else future | (distance >= reach.window)


def bend_scores(scores: Tensor, distance: Tensor, reach: Reach) -> Tensor:
    """scores [..., num_kv_heads, queries_per_kv, tokens, keys], distance [..., tokens, keys] → scores, -inf unseen."""
    if reach.slopes is not None:
        slopes = reach.slopes.view(*scores.shape[-4:-2], 1, 1)
        scores = scores - slopes * distance[..., None, None, :, :]
    return scores.masked_fill(unseen(distance, reach)[..., None, None, :, :], float("-inf"))


def attend_plainly(q: Tensor, keys: Tensor, values: Tensor, scale: float, positions: Tensor, reach: Reach) -> Tensor:
    """One request, in float32: q [tokens, num_heads, head_dim]; keys, values [num_kv_heads, context, head_dim]."""
    distance = positions[:, None] - torch.arange(keys.shape[1], device=q.device)
    queries = q.float().unflatten(1, (keys.shape[0], -1))
    scores = scale * torch.einsum("tkgd,kcd->kgtc", queries, keys.float())
    weights = bend_scores(scores, distance, reach).softmax(dim=-1)
    return torch.einsum("kgtc,kcd->tkgd", weights, values.float()).flatten(1, 2).to(q.dtype)
