"""Checkpoint: the weights of a folder as names, shapes and dtypes, and one tensor at a time when asked.

A Hugging Face folder has one `model.safetensors`, or shards and an index that says which tensor is in which:

    model.safetensors.index.json     {"weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors", …}}

Pickled weights (*.bin, *.pt, *.pth) can run code when they are opened, and are refused; so are index entries that lead
out of the folder, whatever is not a regular file, and files that are not what their header says.

Lesson: 2 (what the HF format is)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Protocol

from safetensors import SafetensorError, safe_open
from torch import Tensor

from lmcourse.errors import CheckpointError
from lmcourse.models.files import read_json, require_folder
from lmcourse.models.safetensors_file import TensorInfo, damaged, read_header

__all__ = ["Checkpoint", "TensorSource"]

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


class TensorSource(Protocol):
    """Where stored tensors come from: files (Checkpoint) or arithmetic (RandomCheckpoint)."""

    folder: Path
    tensors: dict[str, TensorInfo]

    def read(self, name: str) -> Tensor:
        """Plain weights in their stored dtype, on any device: copy what is to be kept."""

    def read_words(self, name: str) -> Tensor:
        """Packed weights, int32 or int8, on any device."""

    @property
    def num_bytes(self) -> int:
        """Of all tensors together."""


class Checkpoint:
    """The tensors of a folder, by name. Opening reads headers only."""

    def __init__(self, folder: Path, *, files: Sequence[str] | None = None) -> None:
        """files: names in the folder; None finds them as Hugging Face names them."""
        self.folder = require_folder(folder)
        self.tensors: dict[str, TensorInfo] = {}
        promises = _weight_files(self.folder) if files is None else {name: set() for name in files}
        for name, promised in promises.items():
            file = self.folder / _plain_name(name, self.folder)
            found = read_header(file)
            _check_promise(file, promised, found)
            self.tensors.update(found)

    @property
    def num_bytes(self) -> int:
        """Of all tensors together."""
        return sum(info.num_bytes for info in self.tensors.values())

    def read(self, name: str) -> Tensor:
        """Plain weights on the CPU, in their stored dtype, backed by the file: copy what is to be kept."""
        info = self.tensors[name]
        assert info.torch_dtype is not None
        return self._read(info)

    def read_words(self, name: str) -> Tensor:
        """Packed weights: int32, or the int8 codes of a head."""
        info = self.tensors[name]
        if info.dtype not in ("I32", "I8"):
            next_step = "only the common layout of int32 words is read: quantise the fp16 model again"
            raise CheckpointError(
                f"{name} does not hold packed words", expected="I32", got=info.dtype, where=info.file,
                next_step=next_step,
            )  # fmt: skip
        return self._read(info)

    def _read(self, info: TensorInfo) -> Tensor:
        try:
            with safe_open(info.file, framework="pt") as opened:
                tensor: Tensor = opened.get_tensor(info.name)
        except (SafetensorError, OSError) as error:
            raise damaged(info.file, "a readable safetensors file", str(error)) from error
        return tensor

    def __repr__(self) -> str:
        return f"Checkpoint({self.folder.name}: {len(self.tensors)} tensors, {self.num_bytes / 2**20:.1f} MiB)"


def _weight_files(folder: Path) -> dict[str, set[str]]:
    """Names of weight files, each with the tensors that the index promises in it (none without an index)."""
    if (folder / _INDEX).exists():
        return _indexed_files(folder / _INDEX)
    if (folder / _SINGLE).exists() or (folder / _SINGLE).is_symlink():
        return {_SINGLE: set()}
    others = sorted(file.name for file in folder.glob("*.safetensors"))
    if others:
        return {name: set() for name in others}
    raise _no_weights(folder)


def _indexed_files(index: Path) -> dict[str, set[str]]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise damaged(index, 'a "weight_map" of tensor names to files', repr(weight_map)[:200])
    files: dict[str, set[str]] = {}
    for tensor, file in weight_map.items():
        files.setdefault(_plain_name(file, index), set()).add(tensor)
    return files


def _plain_name(file: object, where: Path) -> str:
    """The entry, if it is the name of a safetensors file and not a path, on any system."""
    names = (PurePosixPath(file).name, PureWindowsPath(file).name) if isinstance(file, str) else ()
    if isinstance(file, str) and file.endswith(".safetensors") and set(names) == {file}:
        return file
    raise CheckpointError(
        "the index names something that is not a weight file of the folder",
        expected="the name of a .safetensors file beside it, without a path",
        got=repr(file),
        where=where,
        next_step="do not use this model unless you know who made it",
    )


def _check_promise(file: Path, promised: set[str], found: dict[str, TensorInfo]) -> None:
    missing = sorted(promised - found.keys())
    if missing:
        more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
        raise CheckpointError(
            "a shard lacks tensors that the index promises",
            expected=", ".join(missing[:4]) + more,
            got=f"{len(found)} other tensors",
            where=file,
            next_step="get this file again: index and shards may be of different versions",
        )


def _no_weights(folder: Path) -> CheckpointError:
    pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    if pickles:
        return CheckpointError(
            "the weights are pickled, and a pickle can run any code when it is opened",
            expected="*.safetensors",
            got=", ".join(pickles[:4]),
            where=folder,
            next_step="get the safetensors files from the model's hub page; or, if you trust whoever made it, open it "
            "with torch.load(..., weights_only=True) and write it again with safetensors.torch.save_file",
        )
    return CheckpointError(
        "the folder has no weights",
        expected=f"{_SINGLE}, or {_INDEX} and its shards",
        got=", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "an empty folder",
        where=folder,
        next_step="finish the download; with git-lfs run `git lfs pull` in the folder",
    )
