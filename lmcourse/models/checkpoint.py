"""Checkpoint: the weights of a folder as names, shapes and dtypes, and one tensor at a time when asked.

A safetensors file is a length, a JSON header and bytes; what it holds is known without reading a single weight:

    [8 bytes: header length][{"name": {"dtype", "shape", "data_offsets"}, …}][all tensors' bytes, end to end]

A folder has one `model.safetensors`, or shards and an index that says which tensor is in which. Nothing in either can
run code. Pickled weights (*.bin, *.pt, *.pth) can, and are refused; so are index entries that leave the folder, and
files whose header promises other than what is there.

Lesson: 2 (what the HF format is)
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from lmcourse.errors import CheckpointError
from lmcourse.models.files import read_json, require_folder, require_regular_file

__all__ = ["Checkpoint", "TensorInfo", "read_header"]

_MOST_HEADER_BYTES = 100_000_000  # the format's own limit
_BYTES_PER_ELEMENT = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
_FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True)
class TensorInfo:
    """One stored tensor, from its file's header."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # as torch calls it; the header's own word for one that torch has no float for
    num_bytes: int
    file: Path


class Checkpoint:
    """The tensors of a Hugging Face folder. Opening reads headers only."""

    def __init__(self, folder: Path) -> None:
        self.folder = require_folder(folder)
        self.tensors: dict[str, TensorInfo] = {}
        for file, promised in _weight_files(self.folder).items():
            found = read_header(file)
            _check_index(file, promised, found)
            self.tensors.update(found)

    @property
    def num_bytes(self) -> int:
        """Of all tensors together."""
        return sum(info.num_bytes for info in self.tensors.values())

    def read(self, name: str) -> Tensor:
        """The tensor on the CPU, in its stored dtype, backed by the file: copy it before keeping it."""
        info = self.tensors[name]
        if info.dtype not in _FLOATS.values():
            raise CheckpointError(
                f"{name} does not hold plain weights",
                expected=" | ".join(_FLOATS.values()),
                got=info.dtype,
                where=info.file,
                next_step="this looks quantised: use the model's fp16 folder",
            )
        with _damage_reported(info.file), safe_open(info.file, framework="pt") as opened:
            return opened.get_tensor(name)  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"Checkpoint({self.folder.name}: {len(self.tensors)} tensors, {self.num_bytes / 2**20:.1f} MiB)"


def read_header(file: Path) -> dict[str, TensorInfo]:
    """Names, shapes and dtypes of a safetensors file; CheckpointError if the file is not what its header says."""
    require_regular_file(file)
    size = file.stat().st_size
    with file.open("rb") as opened:
        length_bytes = opened.read(8)
        header_length = struct.unpack("<Q", length_bytes)[0] if len(length_bytes) == 8 else 0
        if not 2 <= header_length <= min(_MOST_HEADER_BYTES, size - 8):
            raise _damaged(file, "a header that fits the file", f"header of {header_length} bytes in {size} bytes")
        header = _parse_header(file, opened.read(header_length))
    infos = {name: _tensor_info(file, name, entry) for name, entry in header.items() if name != "__metadata__"}
    promised = 8 + header_length + sum(info.num_bytes for info in infos.values())
    if promised != size:
        raise _damaged(file, f"{promised} bytes, as its header says", f"{size} bytes")
    return infos


def _parse_header(file: Path, raw: bytes) -> dict[str, Any]:
    try:
        header = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _damaged(file, "a JSON header", str(error)) from error
    if not isinstance(header, dict):
        raise _damaged(file, "a JSON object as header", type(header).__name__)
    return header


def _tensor_info(file: Path, name: str, entry: Any) -> TensorInfo:
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        whole = all(type(number) is int and number >= 0 for number in (*shape, begin, end))
    except (TypeError, KeyError, ValueError) as error:
        raise _damaged(file, f"dtype, shape and data_offsets of {name}", repr(entry)[:200]) from error
    element_bytes = _BYTES_PER_ELEMENT.get(dtype) if isinstance(dtype, str) else None
    if not whole or (element_bytes and math.prod(shape) * element_bytes != end - begin):
        raise _damaged(file, f"as many bytes as {name}'s shape needs", repr(entry)[:200])
    return TensorInfo(name, shape, _FLOATS.get(dtype, str(dtype)), end - begin, file)


def _weight_files(folder: Path) -> dict[Path, set[str]]:
    """Weight files of a folder, each with the tensors that the index promises in it (none without an index)."""
    if (folder / _INDEX).exists():
        return _indexed_files(folder)
    if (folder / _SINGLE).exists() or (folder / _SINGLE).is_symlink():
        return {folder / _SINGLE: set()}
    others = sorted(folder.glob("*.safetensors"))
    if others:
        return {file: set() for file in others}
    raise _no_weights(folder)


def _indexed_files(folder: Path) -> dict[Path, set[str]]:
    index = folder / _INDEX
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise _damaged(index, 'a "weight_map" of tensor names to files', repr(weight_map)[:200])
    files: dict[Path, set[str]] = {}
    for name, shard in weight_map.items():
        if not _is_plain_name(shard):
            raise CheckpointError(
                "the index points outside the model's folder",
                expected="the name of a .safetensors file in the same folder",
                got=repr(shard),
                where=f"{index}, {name}",
                next_step="do not use this model unless you know who made it",
            )
        files.setdefault(folder / shard, set()).add(name)
    return files


def _is_plain_name(shard: object) -> bool:
    """Whether an index entry is a file name and not a path, on any system."""
    if not isinstance(shard, str) or not shard.endswith(".safetensors"):
        return False
    return PurePosixPath(shard).name == shard == PureWindowsPath(shard).name


def _check_index(file: Path, promised: set[str], found: dict[str, TensorInfo]) -> None:
    missing = sorted(promised - found.keys())
    if missing:
        raise CheckpointError(
            "a shard lacks tensors that the index promises",
            expected=", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else ""),
            got=f"{len(found)} other tensors",
            where=file,
            next_step="get this file again; index and shards may be of different versions",
        )


def _no_weights(folder: Path) -> CheckpointError:
    pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    if not pickles:
        return CheckpointError(
            "the folder has no weights",
            expected=f"{_SINGLE}, or {_INDEX} and its shards",
            got=", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "an empty folder",
            where=folder,
            next_step="finish the download; with git-lfs run `git lfs pull` in the folder",
        )
    return CheckpointError(
        "the weights are pickled, and a pickle can run any code when it is opened",
        expected="*.safetensors",
        got=", ".join(pickles[:4]),
        where=folder,
        next_step="get the model's safetensors files from its hub page; or, if you trust whoever made it, open it with "
        "torch.load(..., weights_only=True) and write it again with safetensors.torch.save_file",
    )


def _damaged(file: Path, expected: str, got: str) -> CheckpointError:
    lfs = file.stat().st_size < 1024 and file.read_bytes().startswith(b"version https://git-lfs")
    return CheckpointError(
        f"{file.name} is damaged" if not lfs else f"{file.name} is a git-lfs pointer, not the weights",
        expected=expected,
        got=got,
        where=file,
        next_step="run `git lfs pull` in the folder"
        if lfs
        else "get this file again; a download may have stopped early",
    )


@contextmanager
def _damage_reported(file: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise _damaged(file, "a readable safetensors file", str(error)) from error
