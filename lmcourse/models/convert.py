"""convert: a Hugging Face folder → a folder in the engine's own format, tensor by tensor.

Nothing is computed and no bit is lost: tensors are renamed, stacked or have rows regrouped (layouts.py), and keep the
dtype they were stored in. Refused before anything is written: a destination that holds something else, or lies in the
source, or has too little room. The new folder appears complete or not at all.

Lesson: 2 (conversion, tensor by tensor)
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from lmcourse.errors import ConfigError, StorageError, UnsupportedModelError
from lmcourse.models.decoder import meta_decoder
from lmcourse.models.engine_format import ENGINE_FILE, EngineManifest, detect_format
from lmcourse.models.files import read_json, require_folder
from lmcourse.models.language_part import has_pictures
from lmcourse.models.loading import Progress, open_weights
from lmcourse.models.new_folder import new_folder, require_free_space
from lmcourse.models.safetensors_file import Slot, write_safetensors
from lmcourse.models.weight_stream import WeightStream

__all__ = ["ConvertedTensor", "convert"]

_SHARD_BYTES = 2 * 2**30
_COPIED = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "byte_tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "lmcourse.json",
)
_TEMPLATE_FILE = "lmcourse.json"  # read by text/chat_template.py


@dataclass(frozen=True)
class ConvertedTensor:
    """One row of a conversion: what went in, what came out, and what was done."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    sources: tuple[str, ...]
    source_shapes: tuple[tuple[int, ...], ...]
    what: str

    def __str__(self) -> str:
        stored = " + ".join(f"{n} {list(shape)}" for n, shape in zip(self.sources, self.source_shapes, strict=True))
        return f"{stored} -> {self.name} {list(self.shape)} {self.dtype} ({self.what})"


def convert(
    source: Path,
    destination: Path,
    *,
    model_name: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[ConvertedTensor]:
    """Write `source` into `destination` in the engine's format; a row per tensor, in the decoder's order.

    model_name is the chat template that the new folder names. overwrite replaces an earlier conversion, nothing else.
    """
    source, destination = require_folder(source).resolve(), Path(destination).expanduser().resolve()
    _check_places(source, destination, overwrite=overwrite)
    if detect_format(source) == "turbomind":
        detect_format(source, "hf")  # says what is wrong
    weights, family = open_weights(source, dtype=None, device=torch.device("cpu"))
    _refuse_eyes(source)
    shards = _plan_shards(weights)
    num_bytes = sum(slot.num_bytes for shard in shards.values() for slot in shard.values())
    copied = [source / name for name in _COPIED if (source / name).is_file()]
    require_free_space(destination, num_bytes + sum(path.stat().st_size for path in copied) + 2**16)
    with new_folder(destination, replace=overwrite) as folder:
        rows = list(_write_weights(folder, weights, shards, progress))
        for path in copied:
            shutil.copyfile(path, folder / path.name)
        if model_name is not None:
            _name_template(folder / _TEMPLATE_FILE, model_name)
        EngineManifest(weights.spec, family, tuple(shards), num_bytes).write(folder)
    return rows


def _refuse_eyes(source: Path) -> None:
    """The engine's format holds a language model: a converted LLaVA would be blind, and nothing would say so."""
    if has_pictures(read_json(source / "config.json")):
        raise UnsupportedModelError(
            "a vision-language model is not converted",
            expected="a language model",
            got="a folder with a vision tower",
            where=source,
            next_step="use the folder as it is; `lmcourse lite auto_awq` makes its language model smaller",
        )


def _check_places(source: Path, destination: Path, *, overwrite: bool) -> None:
    if destination == source or source in destination.parents or destination in source.parents:
        raise ConfigError(
            "source and destination lie in each other",
            expected="a destination outside the source folder",
            got=destination,
            where=source,
            next_step="choose another destination",
        )
    if not destination.exists() or (destination.is_dir() and not any(destination.iterdir())):
        return
    earlier = destination.is_dir() and (destination / ENGINE_FILE).is_file()
    if not (earlier and overwrite):
        raise StorageError(
            "the destination holds something already",
            expected="a path where nothing is, or an empty folder",
            got="an earlier conversion" if earlier else "other files",
            where=destination,
            next_step="replace it by overwrite=True (--overwrite)" if earlier else "choose another destination",
        )


def _name_template(path: Path, model_name: str) -> None:
    settings = read_json(path) if path.exists() else {}
    path.write_text(json.dumps(settings | {"chat_template": model_name}) + "\n", encoding="utf-8")


def _plan_shards(weights: WeightStream) -> Mapping[str, Mapping[str, Slot]]:
    """Canonical tensors by file, in order, no file above _SHARD_BYTES unless one tensor is."""
    shards: list[dict[str, Slot]] = [{}]
    size = 0
    for name, parameter in meta_decoder(weights.spec, weights.formats).named_parameters():
        slot = Slot(tuple(parameter.shape), weights.stored_dtype(name))
        if shards[-1] and size + slot.num_bytes > _SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = slot
        size += slot.num_bytes
    return {f"weights-{i:04}-of-{len(shards):04}.safetensors": shard for i, shard in enumerate(shards, start=1)}


def _write_weights(
    folder: Path, weights: WeightStream, shards: Mapping[str, Mapping[str, Slot]], progress: Progress | None
) -> Iterator[ConvertedTensor]:
    stream = iter(weights)
    total, done = sum(map(len, shards.values())), 0
    for file, slots in shards.items():
        with write_safetensors(folder / file, slots) as writer:
            for name, slot in slots.items():
                stored, weight = next(stream)
                writer.write(name, weight)
                done += 1
                if progress is not None:
                    progress(name, done, total)
                shapes = tuple(weights.checkpoint.tensors[part].shape for part in stored.sources)
                dtype = str(slot.dtype).removeprefix("torch.")
                yield ConvertedTensor(name, slot.shape, dtype, stored.sources, shapes, stored.rule.what)
    next(stream, None)  # lets the stream warn of tensors that nothing asked for
