"""KVCache: the memory that KV blocks stand for, and how many blocks a device can hold.

The idea: all of it is taken at once, before the first request, so that running out later is impossible: the
scheduler deals in blocks that exist. What a block costs is arithmetic:

    block bytes = 2 (keys, values) x num_layers x num_kv_heads x head_dim x tokens_per_block x bytes per element

Budget: cache_max_entry_count below 1 is a share of the memory that is FREE after the weights are loaded; from 1 on
it is a number of blocks (LMDeploy v0.3.0, BlockManager.cc). LMCOURSE_DEVICE_MEMORY_GIB makes the device look that
large: a smaller card on CUDA, and on CPU, where the default is 1, a budget that cannot swallow a laptop.

Lesson: 3 (memory while a model runs)
"""

from __future__ import annotations

import math
import os

import torch

from lmcourse.accounting import Storage, count_kv_block_bytes
from lmcourse.engine.blocks import BlockManager
from lmcourse.errors import ConfigError, MemoryBudgetError
from lmcourse.kernels import LayerKV
from lmcourse.spec import ModelSpec

__all__ = ["MIN_BLOCKS", "KVCache", "count_affordable_blocks", "count_block_bytes", "measure_free_bytes"]

MIN_BLOCKS = 4  # fewer are no engine: most likely a 1 that was meant as "everything"
_BUDGET_VARIABLE = "LMCOURSE_DEVICE_MEMORY_GIB"


class KVCache:
    """One tensor [num_layers, 2, num_blocks, num_kv_heads, tokens_per_block, head_dim], seen as one LayerKV per layer.

    Its contents are undefined until written; attention never reads what a request did not write.
    """

    def __init__(
        self, spec: ModelSpec, blocks: BlockManager, dtype: torch.dtype, device: torch.device, *, num_spare: int = 0
    ) -> None:
        """num_spare: blocks beyond those of the manager, for writes that nobody reads."""
        self.num_blocks, self.tokens_per_block = blocks.num_blocks + num_spare, blocks.tokens_per_block
        shape = (spec.num_layers, 2, self.num_blocks, spec.num_kv_heads, blocks.tokens_per_block, spec.head_dim)
        try:
            self._pool = torch.empty(shape, dtype=dtype, device=device)
        except RuntimeError as error:  # what torch raises on CPU, and a base of its CUDA error
            raise MemoryBudgetError(
                f"{device} did not give the memory of the KV cache",
                expected=f"{math.prod(shape) * dtype.itemsize / 2**20:.1f} MiB",
                got=str(error).split("\n")[0],
                next_step=f"lower cache_max_entry_count or {_BUDGET_VARIABLE}",
            ) from error
        self.layers = tuple(LayerKV(layer[0], layer[1]) for layer in self._pool)

    @property
    def num_bytes(self) -> int:
        """Memory taken."""
        return self._pool.nbytes

    def __repr__(self) -> str:
        return f"KVCache({list(self._pool.shape)}, {self._pool.dtype}, {self.num_bytes / 2**20:.1f} MiB)"


def count_block_bytes(spec: ModelSpec, tokens_per_block: int, dtype: torch.dtype) -> int:
    """Memory of one block over all layers, for keys and values of this dtype."""
    return round(count_kv_block_bytes(spec, tokens_per_block, Storage(kv_bytes=dtype.itemsize)))


def count_affordable_blocks(entry_count: float, *, block_bytes: int, free_bytes: int) -> int:
    """What cache_max_entry_count buys; MemoryBudgetError if that is next to nothing or more than there is."""
    num_blocks = math.floor(free_bytes * entry_count / block_bytes if entry_count < 1 else entry_count)
    if num_blocks < MIN_BLOCKS or num_blocks * block_bytes > free_bytes:
        mib, free_mib = block_bytes / 2**20, free_bytes / 2**20
        raise MemoryBudgetError(
            "the KV cache does not fit" if num_blocks >= MIN_BLOCKS else "the KV cache has next to no blocks",
            expected=f"from {MIN_BLOCKS} blocks to {max(free_bytes, 0) // block_bytes} ({mib:.3f} MiB each)",
            got=f"{num_blocks} blocks: cache_max_entry_count={entry_count}, {free_mib:.1f} MiB free after the weights",
            next_step="below 1, cache_max_entry_count is a share of the free memory; from 1 on, a number of blocks. "
            f"{_BUDGET_VARIABLE} sets how large the device may look",
        )
    return num_blocks


def measure_free_bytes(device: torch.device, *, weight_bytes: int) -> int:
    """Memory left for the cache, now that the weights are loaded; may be negative under a budget smaller than they."""
    budget = _read_budget_bytes()
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        free = torch.cuda.mem_get_info(device)[0] + unused
        return free if budget is None else min(free, budget - torch.cuda.memory_allocated(device))
    return (2**30 if budget is None else budget) - weight_bytes


def _read_budget_bytes() -> int | None:
    text = os.environ.get(_BUDGET_VARIABLE)
    if not text:
        return None
    try:
        gib = float(text)
    except ValueError:
        gib = math.nan
    if not (math.isfinite(gib) and gib > 0):
        raise ConfigError(f"{_BUDGET_VARIABLE} is not a size", expected="GiB, a number above 0", got=repr(text))
    return int(gib * 2**30)
