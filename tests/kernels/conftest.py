"""Random ragged batches over a poisoned pool, and a printed seed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lmcourse.kernels import INT4, INT8, KVFormat, LayerKV, PackedKV, RaggedBatch
from lmcourse.kernels.packed_kv import dequantise, quantise

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
    layer: LayerKV | PackedKV
    keys: list[Tensor]  # per request [context, num_kv_heads, head_dim]
    values: list[Tensor]

    def attend(self, q: Tensor, scale: float, *, slopes: Tensor | None = None, window: int | None = None) -> Tensor:
        """In float64, written for the tests: no batching, no paging, no masks."""
        q = q.cpu()
        out = torch.zeros(q.shape, dtype=torch.float64)
        for request, (keys, values) in enumerate(zip(self.keys, self.values, strict=True)):
            for token in range(self.batch.query_starts[request], self.batch.query_starts[request + 1]):
                stop = int(self.batch.positions[token]) + 1
                seen = slice(max(0, stop - window) if window else 0, stop)
                for head in range(q.shape[1]):
                    kv_head = head * keys.shape[1] // q.shape[1]
                    scores = keys[seen, kv_head].double() @ q[token, head].double() * scale
                    if slopes is not None:
                        scores += float(slopes[head]) * torch.arange(len(scores))
                    out[token, head] = torch.softmax(scores, 0) @ values[seen, kv_head].double()
        return out

    def rounding(self, q: Tensor, scale: float, *, slope: float = 0.0) -> float:
        """What float32 can be off: a score by its last bit and that of the highest, and with them a mean of values."""
        lengths = [max(float(rows.norm(dim=-1).max()) for rows in of_all) for of_all in (self.keys, [q])]
        score = scale * lengths[0] * lengths[1] + slope * max(self.batch.context_lens)
        return 2.0**-24 * (2 * score + 8) * 2 * max(float(values.abs().max()) for values in self.values)


def build_paged(
    requests: Sequence[tuple[int, int]],
    *,
    num_kv_heads: int = 2,
    head_dim: int = 8,
    tokens_per_block: int = 4,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    form: KVFormat | None = None,
) -> Paged:
    """requests: (new tokens, context) in any order; every slot that no request owns holds NaN.

    With a form the pool is quantised, and the plain keys and values are what it holds.
    """
    requests = sorted(requests, key=lambda request: request[0] != 1)
    counts = [-(-context // tokens_per_block) for _, context in requests]
    num_blocks = sum(counts) + 3
    free = torch.randperm(num_blocks).tolist()
    shape = (num_blocks, num_kv_heads, tokens_per_block, head_dim)
    layer = poisoned_layer(shape, dtype, form)
    tables, keys, values, positions, slots, starts = [], [], [], [], [], [0]
    for (new, context), count in zip(requests, counts, strict=True):
        table = [free.pop() for _ in range(count)]
        k, v = (torch.randn(context, num_kv_heads, head_dim).to(dtype) for _ in range(2))
        places = torch.arange(context)
        taken = torch.tensor(table)[places // tokens_per_block] * tokens_per_block + places % tokens_per_block
        layer.write(k, v, taken)
        if form is not None:
            k, v = (dequantise(*quantise(x, form), form) for x in (k, v))
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
    moved = type(layer)(*(item.to(device) if isinstance(item, Tensor) else item for item in layer))
    return Paged(batch, moved, keys, values)


def poisoned_layer(
    shape: tuple[int, int, int, int], dtype: torch.dtype, form: KVFormat | None = None
) -> LayerKV | PackedKV:
    """[num_blocks, num_kv_heads, tokens_per_block, head_dim] of NaN; of a quantised pool the scales are."""
    if form is None:
        return LayerKV(torch.full(shape, torch.nan, dtype=dtype), torch.full(shape, torch.nan, dtype=dtype))
    num_blocks, num_kv_heads, tokens_per_block, head_dim = shape
    cells = torch.randint(0, 255, (2, num_blocks, num_kv_heads, tokens_per_block, head_dim // 2))
    scales = torch.full((2, num_blocks, num_kv_heads, form.num_scales, tokens_per_block), torch.nan).half()
    return PackedKV(*cells.to(form.cell_dtype), *scales, form)


FORMS = [None, INT8, INT4]


@pytest.fixture(params=FORMS, ids=lambda form: form.name if form else "plain")
def form(request: pytest.FixtureRequest) -> KVFormat | None:
    """How keys and values are stored; None: as computed."""
    return request.param


@pytest.fixture
def make_paged() -> Callable[..., Paged]:
    return build_paged


@pytest.fixture
def make_layer() -> Callable[..., LayerKV | PackedKV]:
    return poisoned_layer
