"""The output of auto_awq: layer by layer into a folder beside it, and into place when all of it is there.

    .internlm2-4bit.unfinished/      settings.json              which model, text and settings the layers belong to
                                     layer-0000.safetensors …   each moved into place when it is whole
    internlm2-4bit/                  config.json, tokenizer, model.safetensors (or shards and an index)

Ctrl-C leaves the first folder, and the same command goes on from there; another command's leftovers are thrown away.
An error leaves nothing.

Lesson: 4 (quantise tiny-chat)
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lmcourse.errors import StorageError
from lmcourse.models import Slot, TensorInfo, new_folder, read_header, read_json, write_safetensors

__all__ = ["Unfinished", "check_destination", "finish"]

_SELDOM = "experts_seldom_reached"
_SHARD_BYTES = 2 * 2**30
_COPIED = ("*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken")
_NOT_COPIED = ("config.json", "model.safetensors.index.json", "evaluation.json", "training.json", "random_weights.json")
_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "I32": torch.int32, "I8": torch.int8}


class Unfinished:
    """The folder of layers that are done."""

    def __init__(self, destination: Path, settings: Mapping[str, Any]) -> None:
        """Layers of the same settings are kept, others removed. StorageError if the folder cannot be made."""
        self.folder = destination.with_name(f".{destination.name}.unfinished")
        stated = self.folder / "settings.json"
        try:
            if self.folder.exists() and not (stated.is_file() and read_json(stated) == dict(settings)):
                shutil.rmtree(self.folder)
            self.folder.mkdir(parents=True, exist_ok=True)
            stated.write_text(json.dumps(dict(settings), indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise _cannot_write(self.folder, error) from error

    def has(self, layer: int) -> bool:
        """Whether the layer is whole."""
        return self._file(layer).is_file()

    def put(self, layer: int, tensors: dict[str, Tensor], seldom: Sequence[int] = ()) -> None:
        """Store a layer, whole or not at all, and which of its experts too few tokens reached."""
        partial = self._file(layer).with_suffix(".partial")
        try:
            save_file(tensors, partial, metadata={_SELDOM: json.dumps(list(seldom))})
            partial.replace(self._file(layer))
        except OSError as error:
            raise _cannot_write(self.folder, error) from error

    def tensors(self, layer: int) -> dict[str, Tensor]:
        """Of a layer that is done."""
        return dict(load_file(self._file(layer)))

    def seldom(self) -> dict[str, list[int]]:
        """Experts that too few tokens reached, by layer."""
        found = {}
        for file in self.files():
            with safe_open(file, framework="pt") as opened:
                found[str(int(file.stem.removeprefix("layer-")))] = json.loads(opened.metadata()[_SELDOM])
        return {layer: experts for layer, experts in found.items() if experts}

    def files(self) -> list[Path]:
        """Of all layers, in order."""
        return sorted(self.folder.glob("layer-*.safetensors"))

    def remove(self) -> None:
        """Throw everything away."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, layer: int) -> Path:
        return self.folder / f"layer-{layer:04}.safetensors"


def check_destination(destination: Path, source: Path) -> None:
    """StorageError unless the output can appear there: nothing, or an empty folder, outside the model's own."""
    if destination == source or source in destination.parents:
        raise StorageError("the output would lie in the model's folder", got=destination, where=source,
                           next_step="choose another --work-dir")  # fmt: skip
    if destination.exists() and not (destination.is_dir() and not any(destination.iterdir())):
        raise StorageError(
            "the output folder holds something already",
            expected="a path where nothing is, or an empty folder",
            got="a file" if destination.is_file() else f"{len(list(destination.iterdir()))} entries",
            where=destination,
            next_step="remove it, or choose another --work-dir",
        )


def finish(
    destination: Path,
    source: Path,
    unfinished: Unfinished,
    rest: Path,
    config: Mapping[str, Any],
    stored_name: Callable[[str], str] = str,
) -> None:
    """Put layers, the rest of the model and its small files together; `destination` appears whole.

    stored_name: what a tensor is called in the folder, where that is another name than in the parts.
    """
    infos = [info for file in (*unfinished.files(), rest) for info in read_header(file).values()]
    tensors = {stored_name(info.name): info for info in infos}
    with new_folder(destination) as folder:
        _write_weights(folder, tensors)
        for pattern in _COPIED:
            for file in sorted(source.glob(pattern)):
                if file.name not in _NOT_COPIED:
                    shutil.copyfile(file, folder / file.name)
        (folder / "config.json").write_text(json.dumps(dict(config), indent=2) + "\n", encoding="utf-8")
    unfinished.remove()


def _write_weights(folder: Path, tensors: Mapping[str, TensorInfo]) -> None:
    shards: list[dict[str, Slot]] = [{}]
    size = 0
    for name, info in tensors.items():
        slot = Slot(info.shape, _DTYPES[info.dtype])
        if shards[-1] and size + slot.num_bytes > _SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = slot
        size += slot.num_bytes
    names = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    if len(shards) == 1:
        names = ["model.safetensors"]
    for file, slots in zip(names, shards, strict=True):
        with write_safetensors(folder / file, slots) as writer:
            for name in slots:
                with safe_open(tensors[name].file, framework="pt") as opened:
                    writer.write(name, opened.get_tensor(tensors[name].name))
    if len(shards) > 1:
        weight_map = {name: file for file, slots in zip(names, shards, strict=True) for name in slots}
        total = sum(slot.num_bytes for slots in shards for slot in slots.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _cannot_write(folder: Path, error: OSError) -> StorageError:
    return StorageError(
        "the quantised layers cannot be written", got=error.strerror or str(error), where=folder,
        next_step="free some space or choose another --work-dir",
    )  # fmt: skip
