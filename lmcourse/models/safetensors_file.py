"""One safetensors file: what its header promises, checked; and writing one tensor by tensor.

    [8 bytes: header length][{"name": {"dtype", "shape", "data_offsets"}, …}][bytes of tensor 0][bytes of tensor 1] …

What a file holds is known without reading a weight, and nothing in it can run code. Reading refuses a header that
promises other than what is there. Writing puts the header first, from shapes alone, and then takes the tensors one at
a time, so that only one has to be in memory however large the model is.

Lesson: 2 (what the HF format is)
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from lmcourse.errors import CheckpointError
from lmcourse.models.files import reading, require_regular_file

__all__ = ["Slot", "TensorInfo", "TensorWriter", "damaged", "read_header", "write_safetensors"]

_MOST_HEADER_BYTES = 100_000_000  # the format's own limit
_FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_ELEMENT_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True)
class TensorInfo:
    """One stored tensor, from its file's header."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # in the header's words: F16, BF16, …
    num_bytes: int
    file: Path

    @property
    def torch_dtype(self) -> torch.dtype:
        """CheckpointError for a dtype that plain weights do not have."""
        if self.dtype in _FLOATS:
            return _FLOATS[self.dtype]
        raise CheckpointError(
            f"{self.name} does not hold plain weights",
            expected=" | ".join(_FLOATS),
            got=self.dtype,
            where=self.file,
            next_step="this looks quantised, in a layout other than AWQ's: use the model's fp16 folder",
        )


def read_header(file: Path) -> dict[str, TensorInfo]:
    """Names, shapes and dtypes; CheckpointError if the file is not what its header says."""
    size = require_regular_file(file).stat().st_size
    with reading(file), file.open("rb") as opened:
        prefix = opened.read(8)
        header_bytes = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= header_bytes <= min(_MOST_HEADER_BYTES, size - 8):
            raise damaged(file, "a header that fits the file", f"a header of {header_bytes} bytes in {size} bytes")
        header = _parse_header(file, opened.read(header_bytes))
    infos = {name: _tensor_info(file, name, entry) for name, entry in header.items() if name != "__metadata__"}
    promised = 8 + header_bytes + sum(info.num_bytes for info in infos.values())
    if promised != size:
        raise damaged(file, f"{promised} bytes, as its header says", f"{size} bytes")
    return infos


def _parse_header(file: Path, raw: bytes) -> dict[str, Any]:
    try:
        header = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise damaged(file, "a JSON header", str(error)) from error
    if not isinstance(header, dict):
        raise damaged(file, "a JSON object as header", type(header).__name__)
    return header


def _tensor_info(file: Path, name: str, entry: Any) -> TensorInfo:
    try:
        dtype, shape, (begin, end) = str(entry["dtype"]), tuple(entry["shape"]), entry["data_offsets"]
        whole = all(type(number) is int and number >= 0 for number in (*shape, begin, end))
    except (TypeError, KeyError, ValueError) as error:
        raise damaged(file, f"dtype, shape and data_offsets of {name}", repr(entry)[:200]) from error
    element_bytes = _ELEMENT_BYTES.get(dtype)  # None: a dtype newer than this list, refused if it is ever read
    if not whole or begin > end or (element_bytes and math.prod(shape) * element_bytes != end - begin):
        raise damaged(file, f"as many bytes as {name}'s shape needs", repr(entry)[:200])
    return TensorInfo(name, shape, dtype, end - begin, file)


def damaged(file: Path, expected: str, got: str) -> CheckpointError:
    """The error for a file that is not what it should be; tells a git-lfs pointer from a damaged download."""
    with file.open("rb") as opened:
        is_pointer = opened.read(64).startswith(b"version https://git-lfs")
    return CheckpointError(
        f"{file.name} is {'a git-lfs pointer, not the weights' if is_pointer else 'damaged'}",
        expected=expected,
        got=got,
        where=file,
        next_step="run `git lfs pull` in the folder"
        if is_pointer
        else "get it again: a download may have stopped early",
    )


@dataclass(frozen=True)
class Slot:
    """Room for one tensor of a file that is being written."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """The format has no padding between tensors."""
        return math.prod(self.shape) * self.dtype.itemsize


class TensorWriter:
    """Takes the tensors of one file in the order of its slots."""

    def __init__(self, file: BinaryIO, slots: Mapping[str, Slot]) -> None:
        self._file, self._waiting = file, dict(slots)
        file.write(_header(slots))

    def write(self, name: str, tensor: Tensor) -> None:
        """The next tensor, which must be what the next slot was made for."""
        expected, slot = next(iter(self._waiting.items()))
        assert (name, tuple(tensor.shape), tensor.dtype) == (expected, slot.shape, slot.dtype), (name, expected, slot)
        del self._waiting[name]
        self._file.write(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)

    def finish(self) -> None:
        """All slots must be filled by now."""
        assert not self._waiting, list(self._waiting)


@contextmanager
def write_safetensors(path: Path, slots: Mapping[str, Slot]) -> Iterator[TensorWriter]:
    """Open a new file for these tensors; OSError where the disk says so."""
    with path.open("xb") as file:
        writer = TensorWriter(file, slots)
        yield writer
        writer.finish()


def _header(slots: Mapping[str, Slot]) -> bytes:
    words = {dtype: word for word, dtype in _FLOATS.items()} | {torch.int32: "I32", torch.int8: "I8"}
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name, slot in slots.items():
        end = begin + slot.num_bytes
        entries[name] = {"dtype": words[slot.dtype], "shape": list(slot.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of 8 bytes
    return struct.pack("<Q", len(text)) + text
