"""Loading: a folder → a Decoder with its weights on the device, one tensor at a time.

The decoder is built on torch's meta device, where shapes cost nothing. Then, canonical tensor by canonical tensor, the
stored parts are read, cast, moved and fused, so that besides the model itself only one tensor's parts are in memory:

    file ──read──▶ part (stored dtype, CPU) ──cast, move──▶ part (dtype, device) ──fuse──▶ weight

A missing tensor, a wrong shape or a value that is not finite is an error; a tensor that nothing asked for is a warning.

Lesson: 2 (what happens before the first token)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from lmcourse.models.checkpoint import Checkpoint
from lmcourse.models.decoder import Decoder, meta_decoder
from lmcourse.models.families import Layout, find_family
from lmcourse.models.files import read_json, require_folder
from lmcourse.models.hf_config import token_ids
from lmcourse.models.weight_stream import WeightStream
from lmcourse.spec import ModelSpec

__all__ = ["Progress", "load_decoder", "load_spec"]

Progress = Callable[[str, int, int], None]  # canonical tensor that is ready, tensors done, tensors in all


def load_spec(folder: Path) -> ModelSpec:
    """The spec of a model folder, from config.json and generation_config.json."""
    return _read_config(require_folder(folder))[0]


def load_decoder(
    folder: Path,
    *,
    dtype: torch.dtype,
    device: torch.device,
    model_format: str | None = None,
    progress: Progress | None = None,
) -> Decoder:
    """The model of a folder, ready to run; weights do not require gradients."""
    folder = require_folder(folder)
    spec, layout = _read_config(folder)
    decoder = meta_decoder(spec)
    num_tensors = sum(1 for _ in decoder.parameters())
    weights = WeightStream(Checkpoint(folder), spec, layout.rules, dtype=dtype, device=device)
    for done, (stored, weight) in enumerate(weights, start=1):
        set_weight(decoder, stored.name, weight)
        if progress is not None:
            progress(stored.name, done, num_tensors)
    return decoder


def _read_config(folder: Path) -> tuple[ModelSpec, Layout]:
    config = read_json(folder / "config.json")
    layout = find_family(config).layout
    assert layout is not None, "find_family returns rows that run"
    spec = layout.read_spec(config)
    generation = folder / "generation_config.json"
    if generation.exists():
        more = token_ids(read_json(generation).get("eos_token_id"), "eos_token_id")
        spec = dataclasses.replace(spec, eos_ids=tuple(dict.fromkeys((*spec.eos_ids, *more))))
    return spec, layout


def set_weight(decoder: Decoder, name: str, weight: Tensor) -> None:
    """Give a decoder one canonical weight."""
    module, leaf = name.rsplit(".", 1)
    setattr(decoder.get_submodule(module), leaf, nn.Parameter(weight, requires_grad=False))
