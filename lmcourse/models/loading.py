"""Loading: a folder → a Decoder with its weights on the device, one tensor at a time.

The decoder is built on torch's meta device, where shapes cost nothing; then each weight takes its place as the stream
makes it, so that the peak of memory is the model and one tensor. Which format a folder has is told by its files:

    turbomind.json   the engine's own: names, shapes and spec are the decoder's
    config.json      Hugging Face: a family's layout says how its tensors become the decoder's, which lie in
                     safetensors files or are drawn (random_weights.json)

Lesson: 2 (what happens before the first token)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from lmcourse.errors import CheckpointError, MemoryBudgetError
from lmcourse.layers import ALONE, Ranks, cut_spec
from lmcourse.models.checkpoint import Checkpoint, TensorSource
from lmcourse.models.decoder import Decoder, meta_decoder
from lmcourse.models.engine_format import EngineManifest, detect_format
from lmcourse.models.families import Family, find_family
from lmcourse.models.family_rules import ENGINE_RULES
from lmcourse.models.files import read_json, require_folder
from lmcourse.models.hf_config import token_ids
from lmcourse.models.language_part import LanguagePart, has_pictures, read_language_config
from lmcourse.models.lora import merge_lora
from lmcourse.models.quantisation import read_quantisation
from lmcourse.models.random_weights import RandomCheckpoint, draws_weights
from lmcourse.models.spec_limits import check_limits
from lmcourse.models.weight_stream import WeightStream
from lmcourse.quant import AwqFormat
from lmcourse.spec import ModelSpec

__all__ = ["Progress", "load_decoder", "load_spec", "open_checkpoint", "open_weights"]

Progress = Callable[[str, int, int], None]  # the canonical tensor that is ready, tensors done, tensors in all


def load_spec(folder: Path) -> ModelSpec:
    """The spec of a model folder: turbomind.json, or config.json and generation_config.json."""
    folder = require_folder(folder)
    if detect_format(folder) == "turbomind":
        return EngineManifest.read(folder).spec
    return _read_config(folder)[0]


def load_decoder(
    folder: Path,
    *,
    dtype: torch.dtype,
    device: torch.device,
    model_format: str | None = None,
    free_bytes: int | None = None,
    ranks: Ranks = ALONE,
) -> Decoder:
    """The model of a folder, ready to run; its weights do not require gradients.

    MemoryBudgetError before anything is read if the weights are more than free_bytes (None: what the device has).
    """
    folder = require_folder(folder)
    detect_format(folder, model_format)
    weights = replace(open_weights(folder, dtype=dtype, device=device)[0], ranks=ranks)
    if free_bytes is not None and weights.num_bytes > free_bytes:
        raise _too_big(weights, device, free_bytes)
    decoder = meta_decoder(cut_spec(weights.spec, ranks), weights.formats, ranks)
    try:
        for stored, weight in weights:
            _set_weight(decoder, stored.name, weight)
    except torch.OutOfMemoryError as error:
        raise _too_big(weights, device, torch.cuda.mem_get_info(device)[0]) from error
    return decoder


def open_weights(folder: Path, *, dtype: torch.dtype | None, device: torch.device) -> tuple[WeightStream, str]:
    """The canonical weights of a folder, not yet read, and its family's name; dtype None keeps the stored dtypes."""
    if detect_format(folder) == "turbomind":
        manifest = EngineManifest.read(folder)
        checkpoint = Checkpoint(folder, files=manifest.weight_files)
        return WeightStream(checkpoint, manifest.spec, ENGINE_RULES, dtype, device), manifest.family
    spec, family = _read_config(folder)
    source = open_checkpoint(folder, device)
    weights = WeightStream(source, spec, family.layout.rules_for(spec, source.tensors), dtype, device)
    _check_quantisation(folder, weights)
    return weights, family.name


def open_checkpoint(folder: Path, device: torch.device) -> TensorSource:
    """The stored tensors of a Hugging Face folder: read from its files or, where it has none, drawn on the device."""
    if not draws_weights(folder):
        config = read_json(folder / "config.json")
        checkpoint = merge_lora(Checkpoint(folder), config)
        return LanguagePart(checkpoint) if has_pictures(config) else checkpoint
    spec, family = _read_config(folder)
    quantised = read_quantisation(read_json(folder / "config.json"))
    return RandomCheckpoint(folder, spec, family.layout.rules_for(spec), device, quantised)


def _check_quantisation(folder: Path, weights: WeightStream) -> None:
    """Config and tensors must agree on whether, and in which groups, weights are packed."""
    stated = read_quantisation(read_json(folder / "config.json"))
    found = {
        weight_format.group_size for weight_format in weights.formats.values() if isinstance(weight_format, AwqFormat)
    }
    agrees = bool(found) if stated is None or stated.group_size is None else found == {stated.group_size}
    if stated is not None and not agrees:
        raise CheckpointError(
            "config.json and the weights disagree on how they are quantised",
            expected="AWQ" + (f" in groups of {stated.group_size}" if stated.group_size else ""),
            got="groups of " + ", ".join(map(str, sorted(found))) if found else "no tensor called *.qweight",
            where=folder,
            next_step="config and weights are of different models or versions: get both again",
        )


def _read_config(folder: Path) -> tuple[ModelSpec, Family]:
    config = read_language_config(folder)
    family = find_family(config)
    spec = check_limits(family.layout.read_spec(config), folder / "config.json")
    if read_quantisation(config) is not None:
        spec = dataclasses.replace(spec, dtype="float16")  # what the scales are, and what the 4-bit kernels compute in
    generation = folder / "generation_config.json"
    if generation.exists():
        more = token_ids(read_json(generation).get("eos_token_id"), "eos_token_id", generation.name)
        spec = dataclasses.replace(spec, eos_ids=tuple(dict.fromkeys((*spec.eos_ids, *more))))
    return spec, family


def _too_big(weights: WeightStream, device: torch.device, free_bytes: int) -> MemoryBudgetError:
    return MemoryBudgetError(
        "the weights do not fit the device",
        expected=f"{weights.num_bytes / 2**30:.2f} GiB free",
        got=f"{free_bytes / 2**30:.2f} GiB free",
        where=device,
        next_step="take a smaller model, load as float16, close what else uses the device (nvidia-smi shows it), or "
        "let the device look larger: LMCOURSE_DEVICE_MEMORY_GIB, 1 on a CPU unless set",
    )


def _set_weight(decoder: Decoder, name: str, weight: Tensor) -> None:
    module, leaf = name.rsplit(".", 1)
    setattr(decoder.get_submodule(module), leaf, nn.Parameter(weight, requires_grad=False))
