"""Checkpoints that are damaged, unsafe or of another kind, built byte by byte."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lmcourse.errors import CheckpointError, ModelNotFoundError
from lmcourse.models import Checkpoint


def raw(header: object, body: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def entry(dtype: object = "F32", shape: object = (2, 2), offsets: object = (0, 16)) -> dict:
    return {"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_file({"a": torch.randn(3, 4), "b": torch.randn(5).half()}, tmp_path / "model.safetensors")
    return tmp_path


def index(folder: Path, weight_map: object) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_open_reads_names_shapes_and_dtypes(folder):
    checkpoint = Checkpoint(folder)
    infos = {name: (info.shape, info.torch_dtype, info.num_bytes) for name, info in checkpoint.tensors.items()}
    assert infos == {"a": ((3, 4), torch.float32, 48), "b": ((5,), torch.float16, 10)}
    assert checkpoint.num_bytes == 58
    assert "2 tensors" in repr(checkpoint)


def test_read_gives_stored_values(tmp_path):
    tensors = {"a": torch.randn(3, 4), "b": torch.randn(5).bfloat16(), "c": torch.zeros(0, 3), "d": torch.tensor(2.0)}
    save_file(tensors, tmp_path / "model.safetensors")
    checkpoint = Checkpoint(tmp_path)
    for name, tensor in tensors.items():
        assert torch.equal(checkpoint.read(name), tensor)


def test_open_shards_by_index(tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "model-1.safetensors")
    save_file({"b": torch.ones(2)}, tmp_path / "model-2.safetensors")
    index(tmp_path, {"a": "model-1.safetensors", "b": "model-2.safetensors"})
    assert torch.equal(Checkpoint(tmp_path).read("b"), torch.ones(2))


def test_open_links_to_files_elsewhere(folder, tmp_path_factory):
    linked = tmp_path_factory.mktemp("linked")
    (linked / "model.safetensors").symlink_to(folder / "model.safetensors")
    assert set(Checkpoint(linked).tensors) == {"a", "b"}
    through = tmp_path_factory.mktemp("parent") / "link"
    through.symlink_to(folder)
    assert set(Checkpoint(through).tensors) == {"a", "b"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0\0",
        raw({}, length=2**62),
        raw(b"not json"),
        raw(b"[]"),
        raw(b"[" * 50_000),
        raw(b"\xff\xfe\x00\x01"),
        raw(entry(), b"\0" * 15),
        raw(entry(), b"\0" * 17),
        raw(entry(offsets=(0, 8)), b"\0" * 8),
        raw(entry(shape=(2, 3)), b"\0" * 16),
        raw(entry(offsets=(16, 0)), b"\0" * 16),
        raw(entry(offsets=(-16, 0)), b"\0" * 16),
        raw(entry(offsets=(0,)), b"\0" * 16),
        raw(entry(shape="ab"), b"\0" * 16),
        raw(entry(shape=(2.0, 2.0)), b"\0" * 16),
        raw(entry(dtype=None, shape=None), b"\0" * 16),
        raw({"w": 3}, b"\0" * 16),
    ],
    ids=range(18),
)
def test_open_damaged_file_is_an_error(content, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged") as caught:
        Checkpoint(tmp_path)
    assert caught.value.where == tmp_path / "model.safetensors"
    assert caught.value.expected
    assert caught.value.got


def test_read_overlapping_tensors_is_an_error(tmp_path):
    header = {
        "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
    }
    (tmp_path / "model.safetensors").write_bytes(raw(header, b"\0" * 16))
    checkpoint = Checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.read("a")


@pytest.mark.parametrize("cut", [1, 30, 50, 90])
def test_open_truncated_file_says_both_sizes(folder, cut):
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-cut])
    with pytest.raises(CheckpointError, match="damaged") as caught:
        Checkpoint(folder)
    assert str(len(whole) - cut) in str(caught.value)


def test_open_git_lfs_pointer_says_what_to_run(tmp_path):
    (tmp_path / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3600000000\n"
    )
    with pytest.raises(CheckpointError, match="git lfs pull"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_open_pickles_are_refused_unread(name, tmp_path):
    (tmp_path / name).write_bytes(b"whatever")
    with pytest.raises(CheckpointError, match="pickle can run any code") as caught:
        Checkpoint(tmp_path)
    assert "save_file" in caught.value.next_step


@pytest.mark.parametrize(
    "shard",
    ["../other/model.safetensors", "/etc/model.safetensors", "sub/model.safetensors", "..\\model.safetensors",
     "C:\\model.safetensors", "C:model.safetensors", "pytorch_model.bin", "", ".", "..", None, 3, ["x"]],
)  # fmt: skip
def test_open_index_that_names_no_plain_file_is_refused(shard, folder):
    index(folder, {"a": shard})
    with pytest.raises(CheckpointError, match="not a weight file of the folder"):
        Checkpoint(folder)


@pytest.mark.parametrize("weight_map", [None, {}, [], "model.safetensors"])
def test_open_index_without_map_is_an_error(weight_map, folder):
    index(folder, weight_map)
    with pytest.raises(CheckpointError, match="index"):
        Checkpoint(folder)


def test_open_index_with_missing_shard_or_tensor_is_an_error(folder):
    index(folder, {"a": "model.safetensors", "z": "model.safetensors"})
    with pytest.raises(CheckpointError, match="promises") as caught:
        Checkpoint(folder)
    assert caught.value.expected == "z"
    index(folder, {"a": "model-00001-of-00002.safetensors"})
    with pytest.raises(CheckpointError, match="missing"):
        Checkpoint(folder)


def test_open_broken_json_index_is_an_error(folder):
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {')
    with pytest.raises(CheckpointError, match="not valid JSON"):
        Checkpoint(folder)


def test_open_file_that_is_not_regular_is_refused_without_blocking(tmp_path):
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="not a regular file"):
        Checkpoint(tmp_path)


def test_open_broken_link_is_an_error(tmp_path):
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "gone")
    with pytest.raises(CheckpointError, match="broken link"):
        Checkpoint(tmp_path)


def test_open_folder_that_is_not_there_or_empty(tmp_path):
    with pytest.raises(ModelNotFoundError):
        Checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="no weights") as caught:
        Checkpoint(tmp_path)
    assert caught.value.got == "an empty folder"


def test_torch_dtype_of_integers_is_an_error(tmp_path):
    save_file({"qweight": torch.zeros(2, dtype=torch.int32)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="plain weights"):
        Checkpoint(tmp_path).read("qweight")
