"""Random ragged batches over a poisoned pool, and a printed seed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lmcourse.kernels import LayerKV, RaggedBatch

sys.path.append(str(Path(__file__).parent))  # for compiled.py


@pytest.fixture(autouse=True)
def seed() -> int:
    """Fresh random inputs every run; pytest shows the seed of a test that fails."""
    value = int(torch.randint(2**31, ()).item())
    print(f"seed {value}")
    torch.manual_seed(value)
    return value


@dataclass
class Paged:
    """A batch, the pool it lives in, and the same keys and values laid out plainly."""

    batch: RaggedBatch
    layer: LayerKV
    keys: list[Tensor]  # per request [context, num_kv_heads, head_dim]
    values: list[Tensor]

    def attend(self, q: Tensor, scale: float) -> Tensor:
        """In float64, written for the tests: no batching, no paging, no masks."""
        q = q.cpu()
        out = torch.zeros(q.shape, dtype=torch.float64)
        for request, (keys, values) in enumerate(zip(self.keys, self.values, strict=True)):
            for token in range(self.batch.query_starts[request], self.batch.query_starts[request + 1]):
                seen = int(self.batch.positions[token]) + 1
                for head in range(q.shape[1]):
                    kv_head = head * keys.shape[1] // q.shape[1]
                    scores = keys[:seen, kv_head].double() @ q[token, head].double() * scale
                    out[token, head] = torch.softmax(scores, 0) @ values[:seen, kv_head].double()
        return out


def build_paged(
    requests: Sequence[tuple[int, int]],
    *,
    num_kv_heads: int = 2,
    head_dim: int = 8,
    tokens_per_block: int = 4,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> Paged:
    """requests: (new tokens, context) in any order; every slot that no request owns holds NaN."""
    requests = sorted(requests, key=lambda request: request[0] != 1)
    counts = [-(-context // tokens_per_block) for _, context in requests]
    num_blocks = sum(counts) + 3
    free = torch.randperm(num_blocks).tolist()
    shape = (num_blocks, num_kv_heads, tokens_per_block, head_dim)
    layer = LayerKV(torch.full(shape, torch.nan, dtype=dtype), torch.full(shape, torch.nan, dtype=dtype))
    tables, keys, values, positions, slots, starts = [], [], [], [], [], [0]
    for (new, context), count in zip(requests, counts, strict=True):
        table = [free.pop() for _ in range(count)]
        k, v = (torch.randn(context, num_kv_heads, head_dim).to(dtype) for _ in range(2))
        for place in range(context):
            block, offset = table[place // tokens_per_block], place % tokens_per_block
            layer.keys[block, :, offset], layer.values[block, :, offset] = k[place], v[place]
        places = range(context - new, context)
        positions += places
        slots += [table[p // tokens_per_block] * tokens_per_block + p % tokens_per_block for p in places]
        starts.append(starts[-1] + new)
        tables.append(table + [0] * (max(counts) - count))
        keys.append(k)
        values.append(v)
    lens = [context for new, context in requests for _ in range(new)]
    batch = RaggedBatch(
        positions=torch.tensor(positions, device=device),
        slots=torch.tensor(slots, device=device),
        block_tables=torch.tensor(tables, dtype=torch.int32, device=device),
        query_starts=tuple(starts),
        context_lens=tuple(context for _, context in requests),
        rotary_lens=torch.tensor(lens, device=device),
        num_decodes=sum(new == 1 for new, _ in requests),
    )
    return Paged(batch, LayerKV(layer.keys.to(device), layer.values.to(device)), keys, values)


@pytest.fixture
def make_paged() -> Callable[..., Paged]:
    return build_paged
