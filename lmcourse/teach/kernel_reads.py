"""What the paged-attention kernel reads, seen while it runs: Triton's interpreter, with an ear on its loads.

The interpreter runs a kernel's programs one after another on the CPU, and every tl.load passes through one function.
There each address is turned back into a place: which program asked, and for which slots of which block.

    addresses − start of the pool  →  block · KV head · slot         program_id  →  request, KV head, split

The interpreter must be chosen before Triton is first imported, so the kernel runs in a Python of its own.

Contract: one decode step of one request; the kernel is the engine's, nothing is simulated. Where there is no Triton
(macOS, Windows) a warning says so and nothing was read.

Lesson: 3 (the kernel)
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lmcourse.errors import ConfigError

__all__ = ["KernelRun", "Read", "interpret_decode", "run_and_listen"]

_HEADS, _KV_HEADS, _HEAD_DIM = 4, 2, 16
_CODE = "import sys; from lmcourse.teach.kernel_reads import run_and_listen; print(run_and_listen(sys.argv[1]))"


@dataclass(frozen=True)
class Read:
    """Slots [first, first + num_slots) of one block, for one KV head, read by one program."""

    split: int
    kv_head: int
    what: str  # keys | values
    block: int
    first: int
    num_slots: int

    def __str__(self) -> str:
        slots = f"slots {self.first}–{self.first + self.num_slots - 1}" if self.num_slots > 1 else f"slot {self.first}"
        return f"program (KV head {self.kv_head}, split {self.split}) reads {self.what} of block {self.block}, {slots}"


@dataclass(frozen=True)
class KernelRun:
    """The reads in the order in which they happened; `error` is the largest difference to plain torch."""

    reads: tuple[Read, ...]
    num_splits: int
    error: float

    @property
    def slots_by_block(self) -> dict[int, int]:
        """Slots of each block whose keys were read for KV head 0, in the order of the reads."""
        found: dict[int, int] = {}
        for read in self.reads:
            if (read.what, read.kv_head) == ("keys", 0):
                found[read.block] = found.get(read.block, 0) + read.num_slots
        return found

    @property
    def order(self) -> str:
        """Why the reads came in this order, in words."""
        heard = [read for read in self.reads if (read.what, read.kv_head) == ("keys", 0)]
        if not heard:
            return "nothing was read"
        if self.num_splits == 1:
            return "one program reads the whole table, the newest block last"
        share = [read for read in heard if read.split == heard[-1].split]
        own = [read for read in share if read.block == share[0].block][-1]
        return (
            "each split begins with the newest block of its share, the only one that may need a mask;\n"
            f"slot {own.first + own.num_slots - 1} of block {own.block} is this step's own token: read after the wait, "
            "and nothing beyond it"
        )


def interpret_decode(table: Sequence[int], *, position: int, tokens_per_block: int, num_blocks: int) -> KernelRun:
    """Decode the token at `position` of a request with this block table, on random keys and values."""
    if tokens_per_block < 16 or tokens_per_block & (tokens_per_block - 1):
        raise ConfigError(
            "a tile of this kernel is a block", expected="a power of two, 16 or more", got=tokens_per_block
        )
    if not (0 <= position < len(table) * tokens_per_block and all(0 <= block < num_blocks for block in table)):
        raise ConfigError(
            "the table does not reach the position", expected=f"blocks below {num_blocks}", got=list(table)
        )
    if importlib.util.find_spec("triton") is None:
        warnings.warn("there is no Triton for this system, so the kernel was not run", stacklevel=2)
        return KernelRun((), num_splits=0, error=math.nan)
    size = {"table": list(table), "position": position, "tokens_per_block": tokens_per_block, "num_blocks": num_blocks}
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", _CODE, json.dumps(size)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=110, check=False)
    if ran.returncode:
        last = (ran.stderr.strip() or "no message").splitlines()[-1]
        raise ConfigError("the kernel could not be run in Triton's interpreter", got=last, next_step="lmcourse doctor")
    answer = json.loads(ran.stdout.splitlines()[-1])
    return KernelRun(tuple(Read(**read) for read in answer["reads"]), answer["num_splits"], answer["error"])


def run_and_listen(size_json: str) -> str:
    """The inner side of interpret_decode: runs where TRITON_INTERPRET is set."""
    import torch

    from lmcourse.kernels import LayerKV, RaggedBatch
    from lmcourse.kernels.attention import ragged_attention, ragged_attention_reference
    from lmcourse.kernels.decode_attention import plan_splits

    size = json.loads(size_json)
    table, position, length = size["table"], size["position"], size["tokens_per_block"]
    torch.manual_seed(0)
    shape = (size["num_blocks"], _KV_HEADS, length, _HEAD_DIM)
    layer = LayerKV(torch.randn(shape), torch.randn(shape))
    batch = RaggedBatch(
        positions=torch.tensor([position]),
        slots=torch.tensor([table[position // length] * length + position % length]),
        block_tables=torch.tensor([table], dtype=torch.int32),
        query_starts=(0, 1),
        context_lens=(position + 1,),
        rotary_lens=torch.tensor([position + 1]),
        num_decodes=1,
    )
    q, scale = torch.randn(1, _HEADS, _HEAD_DIM), _HEAD_DIM**-0.5
    with _Listener({"keys": layer.keys, "values": layer.values}) as listener:
        out = ragged_attention(q, layer, batch, scale)
    error = (out - ragged_attention_reference(q, layer, batch, scale)).abs().max().item()
    splits = plan_splits(1, _KV_HEADS, len(table))
    return json.dumps({"reads": listener.reads, "num_splits": splits, "error": error})


class _Listener:
    """Wraps the interpreter's load for as long as it is entered."""

    def __init__(self, pools: dict[str, Any]) -> None:
        self._pools, self.reads = pools, list[dict[str, int | str]]()

    def __enter__(self) -> _Listener:
        from triton.runtime import interpreter

        self._kind: Any = type(interpreter.interpreter_builder)
        self._load = load = self._kind.create_masked_load

        def listening(builder: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
            self._note(pointers.data[mask.data], builder.grid_idx)
            return load(builder, pointers, mask, *rest)

        self._kind.create_masked_load = listening
        self._patch = interpreter._patch_lang_tensor
        interpreter._patch_lang_tensor = self._patch_for_numpy
        return self

    def _patch_for_numpy(self, tensor: Any, *rest: Any) -> None:
        """A loop's bound is an array of one number, which numpy 2.4 no longer takes from Triton 3.6 as an int."""
        self._patch(tensor, *rest)
        tensor.__index__ = lambda bound: int(bound.handle.data.item())

    def __exit__(self, *_: object) -> None:
        from triton.runtime import interpreter

        self._kind.create_masked_load = self._load
        interpreter._patch_lang_tensor = self._patch

    def _note(self, addresses: Any, program: tuple[int, int, int]) -> None:
        for what, pool in self._pools.items():
            offsets = addresses.astype("int64") - pool.data_ptr()
            if offsets.size and offsets.min() >= 0 and offsets.max() < pool.nbytes:
                rows = sorted({int(offset) for offset in offsets // (pool.element_size() * pool.shape[-1])})
                head_rows, length = divmod(rows[0], pool.shape[2])
                block, kv_head = divmod(head_rows, pool.shape[1])
                place = {"split": program[2], "kv_head": kv_head, "what": what, "block": block}
                self.reads.append({**place, "first": length, "num_slots": len(rows)})
