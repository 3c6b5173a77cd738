"""Memory: what a model, its KV cache and the rest take, predicted by arithmetic and measured while it runs.

    device total = context + weights + KV cache + workspace + kept by the allocator + libraries and kernels + free

On the CPU the device is virtual (LMCOURSE_DEVICE_MEMORY_GIB): its total is weights, KV cache and what is left for work.

Lesson: 3 (the three parts of memory)
"""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmcourse.accounting import Storage, count_weight_bytes
from lmcourse.bench.measure import run_engine
from lmcourse.bench.workloads import mixed_requests
from lmcourse.config import TurbomindEngineConfig

if TYPE_CHECKING:
    import torch

    from lmcourse.engine import Engine
    from lmcourse.spec import ModelSpec

__all__ = [
    "MemoryPart",
    "MemoryUse",
    "measure_memory",
]

_PROMPT_TOKENS, _NEW_TOKENS = 512, 16
_MIB = 2**20


@dataclass(frozen=True)
class MemoryPart:
    """One part of a device's memory; predicted None: nothing but measuring tells."""

    name: str
    predicted_bytes: int | None
    measured_bytes: int
    is_left_over: bool = False

    @property
    def error(self) -> float | None:
        """(measured - predicted) / predicted."""
        if not self.predicted_bytes:
            return None
        return self.measured_bytes / self.predicted_bytes - 1


@dataclass(frozen=True)
class MemoryUse:
    """What an engine takes after it has answered; the parts add up to `total_bytes`."""

    model: str
    device: str
    dtype: str
    quant_policy: int
    cache_max_entry_count: float
    num_blocks: int
    tokens_per_block: int
    parts: tuple[MemoryPart, ...]
    total_bytes: int  # as the driver tells, all processes on the device together; on the CPU: the budget

    @property
    def taken_bytes(self) -> int:
        """The total without what is left over."""
        return self.total_bytes - sum(part.measured_bytes for part in self.parts if part.is_left_over)

    @property
    def unexplained_bytes(self) -> int:
        """What the rows leave of the total."""
        return self.total_bytes - sum(part.measured_bytes for part in self.parts)

    def __str__(self) -> str:
        lines = [
            f"{self.model}, {self.dtype}, on {self.device}: quant_policy {self.quant_policy}, "
            f"cache_max_entry_count {self.cache_max_entry_count}",
            f"{self.num_blocks} KV blocks of {self.tokens_per_block} tokens: {self.num_blocks * self.tokens_per_block}",
            f"{'MiB':32}{'predicted':>12}{'measured':>12}{'error':>9}",
        ]
        for part in self.parts:
            predicted = "" if part.predicted_bytes is None else f"{part.predicted_bytes / _MIB:.1f}"
            error = "" if part.error is None else f"{part.error:+.1%}"
            lines.append(f"{part.name:32}{predicted:>12}{part.measured_bytes / _MIB:12.1f}{error:>9}")
        lines.append(f"{'sum of the rows':32}{'':12}{sum(part.measured_bytes for part in self.parts) / _MIB:12.1f}")
        lines.append(f"{'total, measured':32}{'':12}{self.total_bytes / _MIB:12.1f}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        return {"benchmark": "memory", **dataclasses.asdict(self)}


def measure_memory(folder: Path, config: TurbomindEngineConfig, *, model: str | None = None) -> MemoryUse:
    """Load the model, let it answer once, and count; `model` is its name in the table."""
    import torch

    from lmcourse.engine import Engine
    from lmcourse.engine.settings import choose_device, choose_dtype
    from lmcourse.models import load_spec

    device = choose_device()
    dtype = choose_dtype(config, load_spec(folder).dtype, device)
    meter = _CudaMeter(device) if device.type == "cuda" else _VirtualMeter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the session is cut to the cache is the point of a small rung
        engine = Engine.from_folder(folder, config)
    with engine:
        num_new = min(_NEW_TOKENS, engine.session_len // 2)
        num_prompt = min(_PROMPT_TOKENS, engine.session_len - num_new)
        lens = {"prompt_lens": (num_prompt, num_prompt), "output_lens": (num_new, num_new)}
        run_engine(engine, mixed_requests(1, vocab=engine.spec.vocab, seed=0, **lens))
        stats = engine.stats()
        known = _known_parts(folder, engine, dtype, num_prompt)
        parts, total = meter.read(known)
    return MemoryUse(
        model=model or folder.name,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU's virtual device",
        dtype=str(dtype).removeprefix("torch."),
        quant_policy=config.quant_policy,
        cache_max_entry_count=config.cache_max_entry_count,
        num_blocks=stats.num_blocks,
        tokens_per_block=stats.tokens_per_block,
        parts=parts,
        total_bytes=total,
    )


@dataclass(frozen=True)
class _Known:
    """What arithmetic says, and what the engine counts."""

    weights: MemoryPart
    kv: MemoryPart
    workspace_bytes: int  # predicted


def _known_parts(folder: Path, engine: Engine, dtype: torch.dtype, num_prompt: int) -> _Known:
    from lmcourse.engine.kv_cache import choose_form, count_block_bytes

    stats, spec, config = engine.stats(), engine.spec, engine.config
    block_bytes = count_block_bytes(spec, stats.tokens_per_block, dtype, choose_form(config.quant_policy, spec))
    weights = round(count_weight_bytes(spec, _weight_storage(folder, dtype.itemsize)))
    return _Known(
        MemoryPart("weights", weights, stats.weight_bytes),
        MemoryPart("KV cache", (stats.num_blocks + stats.num_spare_blocks) * block_bytes, stats.kv_bytes),
        _predict_workspace(spec, num_prompt, dtype.itemsize),
    )


def _weight_storage(folder: Path, itemsize: int) -> Storage:
    """Bytes per weight as the engine holds them: of 4-bit matrices a word of 4 bytes per group of 128 beside them."""
    from lmcourse.models import read_json
    from lmcourse.models.engine_format import detect_format
    from lmcourse.models.quantisation import read_quantisation

    plain = Storage(body_bytes=itemsize, head_bytes=itemsize, vector_bytes=itemsize, embedding_bytes=itemsize)
    stated = read_quantisation(read_json(folder / "config.json")) if detect_format(folder) == "awq" else None
    if stated is None:
        return plain
    head = itemsize if stated.head_bits == 16 else stated.head_bits / 8
    return dataclasses.replace(plain, body_bytes=0.5 + 4 / (stated.group_size or 128), head_bytes=head)


def _predict_workspace(spec: ModelSpec, num_tokens: int, itemsize: int) -> int:
    """A prompt at its widest, between gate and down: residual, its norm, gate and up, their product; and one logit row.

    Libraries take workspaces of their own, which no arithmetic knows.
    """
    return num_tokens * (2 * spec.hidden + 3 * spec.intermediate) * itemsize + 2 * 4 * spec.vocab


class _VirtualMeter:
    """The CPU's device is a budget: what is not weights or KV cache is left for everything else."""

    def read(self, known: _Known) -> tuple[tuple[MemoryPart, ...], int]:
        from lmcourse.engine.kv_cache import measure_free_bytes

        total = measure_free_bytes(_cpu(), weight_bytes=0)
        left = total - known.weights.measured_bytes - known.kv.measured_bytes
        rest = MemoryPart("left for work", None, left, is_left_over=True)
        return (known.weights, known.kv, rest), total


class _CudaMeter:
    """Reads the driver and torch's allocator before a model is loaded and after it has answered."""

    def __init__(self, device: torch.device) -> None:
        import torch

        self._device = device
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        torch.zeros(1, device=device)
        self._context = max(0, _count_used(device) - torch.cuda.memory_reserved(device))

    def read(self, known: _Known) -> tuple[tuple[MemoryPart, ...], int]:
        import torch

        torch.cuda.synchronize(self._device)
        used, reserved = _count_used(self._device), torch.cuda.memory_reserved(self._device)
        peak = torch.cuda.max_memory_allocated(self._device)
        work = peak - known.weights.measured_bytes - known.kv.measured_bytes
        parts = (
            MemoryPart("CUDA context (all processes)", None, self._context),
            known.weights,
            known.kv,
            MemoryPart("workspace, at its peak", known.workspace_bytes, work),
            MemoryPart("kept by torch's allocator", None, reserved - peak),
            MemoryPart("kernels, libraries, graphs", None, used - reserved - self._context),
        )
        return parts, used


def _cpu() -> torch.device:
    import torch

    return torch.device("cpu")


def _count_used(device: torch.device) -> int:
    """As nvidia-smi counts it: everything that is not free."""
    import torch

    free, total = torch.cuda.mem_get_info(device)
    return total - free
