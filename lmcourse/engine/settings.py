"""What a TurbomindEngineConfig means on this machine: device, dtype, how positions act, how long a session may be.

The idea: a setting that is accepted has an effect.

Lesson: 2 (passing engine parameters)
"""

from __future__ import annotations

import dataclasses
import warnings

import torch

from lmcourse.config import TurbomindEngineConfig
from lmcourse.errors import ConfigError, MachineError
from lmcourse.spec import ModelSpec

__all__ = ["check_alone", "choose_device", "choose_dtype", "choose_session_len", "scale_queries", "scale_rotary"]


def check_alone(config: TurbomindEngineConfig, *, sees: bool) -> None:
    """ConfigError for a model with a picture encoder on several ranks: features are made on one device only."""
    if sees and config.tp > 1:
        raise ConfigError(
            "a model that sees runs on one device",
            expected="tp=1",
            got=f"tp={config.tp}",
            where="tp",
            next_step="leave tp out; 4-bit weights (lmcourse lite auto_awq) take a quarter of the memory",
        )


def choose_device(name: str | None = None) -> torch.device:
    """The named device (MachineError if it is missing); without a name CUDA if there is one, else the CPU."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise MachineError("no CUDA device is visible", got=name, next_step="run `lmcourse doctor`, or use 'cpu'")
    return device


def choose_dtype(config: TurbomindEngineConfig, stored_dtype: str, device: torch.device) -> torch.dtype:
    """`auto` is float32 on CPU; on CUDA float16, or bfloat16 if the weights are stored so and the card computes it."""
    named = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
    if config.dtype != "auto":
        return named[config.dtype]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if stored_dtype == "bfloat16" and torch.cuda.is_bf16_supported() else torch.float16


def scale_rotary(spec: ModelSpec, factor: float) -> ModelSpec:
    """The spec with dynamic NTK scaling beyond its trained context; as it is for factor 0."""
    if factor == 0:
        return spec
    rotary = dataclasses.replace(spec.rotary, scaling="dynamic", factor=factor, trained_context=spec.max_context)
    return dataclasses.replace(spec, rotary=rotary)


def scale_queries(spec: ModelSpec, *, asked: bool) -> ModelSpec:
    """The spec with queries that grow with the logarithm of their position, beyond the context the model states."""
    if not asked or spec.logn_context is not None:
        return spec
    return dataclasses.replace(spec, logn_context=spec.max_context)


def choose_session_len(asked: int | None, spec: ModelSpec, *, cache_tokens: int) -> int:
    """Most tokens of one request; warns beyond the trained context, and where the cache holds less than was wanted."""
    wanted = spec.max_context if asked is None else asked
    if wanted > spec.max_context and not spec.rotary.follows_length:
        warnings.warn(
            f"session_len {wanted} is more than the {spec.max_context} tokens the model was trained for: "
            "answers far into the session will be poor (rope_scaling_factor=1.0 or more helps)",
            stacklevel=5,
        )
    if wanted > cache_tokens:
        warnings.warn(
            f"session_len is reduced from {wanted} to {cache_tokens} tokens, all that the KV cache holds "
            "(raise cache_max_entry_count to change that)",
            stacklevel=5,
        )
    return min(wanted, cache_tokens)
