"""quantization_config: what a checkpoint says about its packed weights, and whether the engine can read them.

    {"quant_method": "awq", "version": "gemm", "bits": 4, "group_size": 128, "zero_point": true}

written by transformers and by LMDeploy from 0.4 on; AutoAWQ's own names (w_bit, q_group_size) mean the same. LMDeploy
0.3.0 wrote nothing, which is why the lesson's command has `--model-format awq`: here the tensors' names tell it.

Lesson: 4 (from a checkpoint to the kernel)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lmcourse.errors import UnsupportedModelError

__all__ = ["AwqConfig", "read_quantisation"]

_SUPPORTED = "quant_method awq, version gemm, 4 bits"


@dataclass(frozen=True)
class AwqConfig:
    """What matters of it; group_size None: one group for all input features."""

    group_size: int | None
    head_bits: int = 16  # 8: this course's own; other engines read no such head


def read_quantisation(config: Mapping[str, Any]) -> AwqConfig | None:
    """None for plain weights; UnsupportedModelError for a method, version or width that the engine does not read."""
    stated = config.get("quantization_config")
    if not stated:
        return None
    if not isinstance(stated, Mapping):
        raise _unsupported(f"{stated!r}")
    method = str(stated.get("quant_method", "")).lower()
    if method != "awq":
        raise _unsupported(f"quant_method {stated.get('quant_method')!r}")
    version = str(stated.get("version", "gemm")).lower()
    bits = stated.get("bits", stated.get("w_bit", 4))
    if version != "gemm":
        raise _unsupported(f"awq, version {version!r}")
    if bits != 4:
        raise _unsupported(f"awq of {bits!r} bits")
    group_size = stated.get("group_size", stated.get("q_group_size", 128))
    if not isinstance(group_size, int) or isinstance(group_size, bool) or not (group_size == -1 or group_size >= 1):
        raise _unsupported(f"awq, group_size {group_size!r}")
    head_bits = stated.get("head_bits", 16)
    if head_bits not in (8, 16):
        raise _unsupported(f"awq with a head of {head_bits!r} bits")
    return AwqConfig(None if group_size == -1 else group_size, head_bits)


def _unsupported(got: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        "these weights are quantised in a way that the engine cannot read",
        expected=f"plain weights, or {_SUPPORTED}",
        got=got,
        where="config.json, quantization_config",
        next_step="use the model's fp16 folder, or make 4-bit weights of it with `lmcourse lite auto_awq`",
    )
