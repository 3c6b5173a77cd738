"""KVCache: the memory that KV blocks stand for, and how many blocks a device can hold.

The idea: all of it is taken at once, before the first request, so that running out later is impossible: the
scheduler deals in blocks that exist. What a block costs is arithmetic:

    block bytes = 2 (keys, values) x num_layers x num_kv_heads x tokens_per_block x bytes per head

    bytes per head    as computed: 2 or 4 x head_dim     int8: head_dim + 2     int4: head_dim / 2 + 4

Budget: cache_max_entry_count below 1 is a share of the memory that is FREE after the weights are loaded; from 1 on
it is a number of blocks (LMDeploy v0.3.0, BlockManager.cc). LMCOURSE_DEVICE_MEMORY_GIB makes the device look that
large: a smaller card on CUDA, and on CPU, where the default is 1, a budget that cannot swallow a laptop.

Lesson: 3 (memory while a model runs)
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lmcourse.accounting import Storage, count_kv_block_bytes
from lmcourse.config import TurbomindEngineConfig
from lmcourse.engine.blocks import BlockManager
from lmcourse.errors import ConfigError, MemoryBudgetError
from lmcourse.kernels import INT4, INT8, AnyKV, KVFormat, LayerKV, PackedKV
from lmcourse.spec import ModelSpec

if TYPE_CHECKING:
    from lmcourse.models import Decoder

__all__ = [
    "MIN_BLOCKS",
    "KVCache",
    "choose_form",
    "count_affordable_blocks",
    "count_block_bytes",
    "kv_storage",
    "make_kv_cache",
    "measure_free_bytes",
]

_FORMS = {0: None, 8: INT8, 4: INT4}  # by quant_policy, as LMDeploy has it since 0.4.0
MIN_BLOCKS = 4  # fewer are no engine: most likely a 1 that was meant as "everything"
_BUDGET_VARIABLE = "LMCOURSE_DEVICE_MEMORY_GIB"


class KVCache:
    """Keys and values of all layers, [num_layers, 2, num_blocks, num_kv_heads, …], seen as one AnyKV per layer.

    Its contents are undefined until written; attention never reads what a request did not write.
    """

    def __init__(
        self,
        spec: ModelSpec,
        blocks: BlockManager,
        dtype: torch.dtype,
        device: torch.device,
        form: KVFormat | None = None,
        *,
        num_spare: int = 0,
    ) -> None:
        """`form` None: stored as computed, in `dtype`. num_spare: blocks beyond the manager's, which nobody reads."""
        self.num_blocks, self.tokens_per_block = blocks.num_blocks + num_spare, blocks.tokens_per_block
        heads = (spec.num_layers, 2, self.num_blocks, spec.num_kv_heads)
        size = blocks.tokens_per_block
        if form is None:
            self._pools = _allocate([((*heads, size, spec.head_dim), dtype)], device)
            self.layers: tuple[AnyKV, ...] = tuple(LayerKV(layer[0], layer[1]) for layer in self._pools[0])
        else:
            shapes = [((*heads, size, spec.head_dim // 2), form.cell_dtype)]
            self._pools = _allocate([*shapes, ((*heads, form.num_scales, size), torch.float16)], device)
            self.layers = tuple(
                PackedKV(cells[0], cells[1], scales[0], scales[1], form)
                for cells, scales in zip(*self._pools, strict=True)
            )

    @property
    def num_bytes(self) -> int:
        """Memory taken."""
        return sum(pool.nbytes for pool in self._pools)

    def __repr__(self) -> str:
        pools = ", ".join(f"{list(pool.shape)} {pool.dtype}" for pool in self._pools)
        return f"KVCache({pools}, {self.num_bytes / 2**20:.1f} MiB)"


def _allocate(wanted: list[tuple[tuple[int, ...], torch.dtype]], device: torch.device) -> list[Tensor]:
    """Uninitialised tensors, all or none."""
    try:
        return [torch.empty(shape, dtype=dtype, device=device) for shape, dtype in wanted]
    except RuntimeError as error:  # what torch raises on CPU, and a base of its CUDA error
        num_bytes = sum(math.prod(shape) * dtype.itemsize for shape, dtype in wanted)
        raise MemoryBudgetError(
            f"{device} did not give the memory of the KV cache",
            expected=f"{num_bytes / 2**20:.1f} MiB",
            got=str(error).split("\n")[0],
            next_step=f"lower cache_max_entry_count or {_BUDGET_VARIABLE}",
        ) from error


def make_kv_cache(
    decoder: Decoder, config: TurbomindEngineConfig, *, weight_bytes: int, num_spare: int = 0
) -> tuple[KVCache, BlockManager]:
    """As many blocks as the config buys of what the weights leave, and the memory behind them and some to spare.

    Ranks that share a model get equally many, so many as all can afford.
    """
    spec, dtype, device = decoder.spec, decoder.dtype, decoder.device
    form, size = choose_form(config.quant_policy, spec), config.cache_block_seq_len
    num_blocks = count_affordable_blocks(
        config.cache_max_entry_count,
        block_bytes=count_block_bytes(spec, size, dtype, form),
        free_bytes=measure_free_bytes(device, weight_bytes=weight_bytes),
    )
    blocks = BlockManager(decoder.ranks.least(num_blocks), size)
    return KVCache(spec, blocks, dtype, device, form, num_spare=num_spare), blocks


def choose_form(quant_policy: int, spec: ModelSpec) -> KVFormat | None:
    """How keys and values are stored; ConfigError for heads that do not fill 16-bit words."""
    form = _FORMS[quant_policy]
    if form is not None and spec.head_dim % form.parts:
        raise ConfigError(
            f"an {form.name} KV cache cannot hold heads of {spec.head_dim} features",
            expected=f"a head_dim that is a multiple of {form.parts}",
            got=spec.head_dim,
            where="quant_policy",
            next_step="leave quant_policy out",
        )
    return form


def kv_storage(form: KVFormat | None, dtype: torch.dtype) -> Storage:
    """Bytes per cached element and per scale, as accounting.py counts them."""
    if form is None:
        return Storage(kv_bytes=dtype.itemsize)
    return Storage(kv_bytes=form.bits / 8, kv_scale_bytes=2 * form.num_scales)


def count_block_bytes(spec: ModelSpec, tokens_per_block: int, dtype: torch.dtype, form: KVFormat | None = None) -> int:
    """Memory of one block over all layers."""
    return round(count_kv_block_bytes(spec, tokens_per_block, kv_storage(form, dtype)))


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
