"""Conversion: what comes out, and that nothing half-written is ever left."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from lmcourse.errors import CheckpointError, ConfigError, ModelNotFoundError, StorageError, UnsupportedModelError
from lmcourse.models import convert, load_spec, safetensors_file


@pytest.fixture
def source(tiny_llama, relaid, write) -> Path:
    folder = write(relaid(tiny_llama()), "source")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text(f'{{"file": "{name}"}}')
    (folder / "modeling_evil.py").write_text("raise SystemExit")
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 40]}')
    return folder


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_convert_loads_back_bit_equal(source, tmp_path, load, open_session):
    convert(source, tmp_path / "out")
    before, after = load(source), load(tmp_path / "out")
    assert before.spec == after.spec
    assert dict(before.named_parameters()).keys() == dict(after.named_parameters()).keys()
    for one, other in zip(before.parameters(), after.parameters(), strict=True):
        assert torch.equal(one, other)
    ids = torch.randint(131, (20,)).tolist()
    logits = [open_session(decoder).step({"only": ids})["only"] for decoder in (before, after)]
    assert torch.equal(*logits)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_convert_keeps_every_stored_dtype(dtype, tiny_llama, write, tmp_path, load):
    config, tensors = tiny_llama()
    stored = {name: tensor if "norm" in name else tensor.to(dtype) for name, tensor in tensors.items()}
    convert(write((config, stored)), tmp_path / "out")
    with safe_open(tmp_path / "out" / "weights-0001-of-0001.safetensors", "pt") as file:
        assert file.get_tensor("norm.weight").dtype == torch.float32
        assert torch.equal(file.get_tensor("head.weight"), stored["lm_head.weight"])
    assert torch.equal(load(tmp_path / "out").norm.weight, tensors["model.norm.weight"])


def test_convert_rows_say_what_was_done(source, tmp_path):
    rows = {row.name: row for row in convert(source, tmp_path / "out")}
    qkv = rows["layers.2.attention.qkv.weight"]
    assert (qkv.sources, qkv.shape, qkv.dtype) == (("model.layers.2.attention.wqkv.weight",), (160, 48), "float32")
    assert "regrouped" in qkv.what
    gate_up = rows["layers.0.mlp.gate_up.weight"]
    assert gate_up.source_shapes == ((80, 48), (80, 48))
    assert str(gate_up).startswith("model.layers.0.feed_forward.w1.weight [80, 48] + ")
    assert len(rows) == 3 * 6 + 3


def test_convert_writes_these_files_and_no_code(source, tmp_path):
    convert(source, tmp_path / "deep" / "out", model_name="internlm2")
    assert names(tmp_path / "deep") == ["out"]
    assert names(tmp_path / "deep" / "out") == [
        "config.json", "generation_config.json", "lmcourse.json", "tokenizer.json", "tokenizer_config.json",
        "turbomind.json", "weights-0001-of-0001.safetensors",
    ]  # fmt: skip
    assert json.loads((tmp_path / "deep" / "out" / "lmcourse.json").read_text()) == {"chat_template": "internlm2"}
    assert load_spec(tmp_path / "deep" / "out").eos_ids == (2, 40)


def test_convert_splits_into_shards(source, tmp_path, load, monkeypatch):
    import importlib

    monkeypatch.setattr(importlib.import_module("lmcourse.models.convert"), "_SHARD_BYTES", 60_000)
    convert(source, tmp_path / "out")
    shards = [name for name in names(tmp_path / "out") if name.startswith("weights-")]
    assert len(shards) > 2
    assert all((tmp_path / "out" / name).stat().st_size < 64_000 for name in shards)
    assert all(
        torch.equal(*pair) for pair in zip(load(source).parameters(), load(tmp_path / "out").parameters(), strict=True)
    )
    (tmp_path / "out" / shards[1]).unlink()
    with pytest.raises(CheckpointError, match="missing"):
        load(tmp_path / "out")


def test_convert_into_empty_folder_and_over_an_earlier_conversion(source, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    convert(source, out)
    (out / "note.txt").write_text("mine")
    with pytest.raises(StorageError, match="holds something already"):
        convert(source, out)
    assert (out / "note.txt").exists()
    convert(source, out, overwrite=True)
    assert "note.txt" not in names(out)
    assert names(tmp_path) == ["out", "source"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_convert_never_replaces_other_files(overwrite, source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("three years")
    with pytest.raises(StorageError, match="holds something already"):
        convert(source, tmp_path / "out", overwrite=overwrite)
    (tmp_path / "file").write_text("a file")
    with pytest.raises(StorageError):
        convert(source, tmp_path / "file", overwrite=overwrite)
    assert (tmp_path / "out" / "thesis.tex").read_text() == "three years"
    assert (tmp_path / "file").read_text() == "a file"


@pytest.mark.parametrize("inside", [".", "out", "a/b", "..", "../source"])
def test_convert_into_its_own_source_is_refused(inside, source):
    before = names(source)
    with pytest.raises(ConfigError, match="lie in each other"):
        convert(source, source / inside)
    assert names(source) == before


def test_convert_through_a_link_into_its_own_source_is_refused(source, tmp_path):
    (tmp_path / "link").symlink_to(source)
    with pytest.raises(ConfigError, match="lie in each other"):
        convert(source, tmp_path / "link" / "out")


def test_convert_without_room_is_refused_before_writing(source, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 99, 1))
    with pytest.raises(StorageError, match="too little room") as caught:
        convert(source, tmp_path / "out")
    assert "MiB free" in caught.value.expected
    assert names(tmp_path) == ["source"]


@pytest.mark.parametrize("after", [0, 1, 7, 20])
def test_convert_disk_full_leaves_nothing(after, source, tmp_path, monkeypatch):
    write = safetensors_file.TensorWriter.write
    calls = []

    def full(self, name, tensor):
        calls.append(name)
        if len(calls) > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, name, tensor)

    monkeypatch.setattr(safetensors_file.TensorWriter, "write", full)
    with pytest.raises(StorageError) as caught:
        convert(source, tmp_path / "a" / "b" / "out")
    assert "No space left" in caught.value.got
    assert names(tmp_path) == ["source"]


def test_convert_disk_full_keeps_the_earlier_conversion(source, tmp_path, monkeypatch, load):
    convert(source, tmp_path / "out")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(safetensors_file.TensorWriter, "write", full)
    with pytest.raises(StorageError):
        convert(source, tmp_path / "out", overwrite=True)
    assert names(tmp_path) == ["out", "source"]
    load(tmp_path / "out")


def test_convert_file_size_limit_of_the_system_leaves_nothing(source, tmp_path):
    """A real refusal by the kernel: no file of the process may exceed 64 KiB."""
    code = (
        "import resource, signal, sys; from pathlib import Path; from lmcourse.models import convert\n"
        "from lmcourse.errors import StorageError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "try: convert(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "except StorageError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(source), str(tmp_path / "out")], capture_output=True, text=True, check=True
    )
    assert "what had been written was removed" in done.stdout
    assert names(tmp_path) == ["source"]


def test_convert_into_read_only_folder_is_a_storage_error(source, tmp_path, monkeypatch):
    def locked(**_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(tempfile, "mkdtemp", locked)
    with pytest.raises(StorageError, match="Permission denied"):
        convert(source, tmp_path / "out")


def test_convert_under_a_file_is_a_storage_error(source, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        convert(source, tmp_path / "file" / "out")
    assert names(tmp_path) == ["file", "source"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, CheckpointError("x")])
def test_convert_interrupted_leaves_nothing(error, source, tmp_path):
    def stop(_name, done, _total):
        if done == 5:
            raise error

    with pytest.raises(error if isinstance(error, type) else type(error)):
        convert(source, tmp_path / "out", progress=stop)
    assert names(tmp_path) == ["source"]


def test_convert_bad_sources_are_named(source, tmp_path):
    with pytest.raises(ModelNotFoundError):
        convert(tmp_path / "nowhere", tmp_path / "out")
    convert(source, tmp_path / "out")
    with pytest.raises(ConfigError, match="not in hf format"):
        convert(tmp_path / "out", tmp_path / "again")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "awq"}}))
    with pytest.raises(CheckpointError, match="disagree on how they are quantised"):
        convert(source, tmp_path / "again")
    (source / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(UnsupportedModelError, match="quantised"):
        convert(source, tmp_path / "again")
    (source / "config.json").write_text(json.dumps(config | {"vocab_size": 132}))
    with pytest.raises(CheckpointError, match="wrong shape"):
        convert(source, tmp_path / "again")
    assert names(tmp_path) == ["out", "source"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("version",), 1),
        (("format",), "other"),
        (("spec", "hidden"), "48"),
        (("spec", "num_layers"), -1),
        (("spec", "num_layers"), 10**9),
        (("spec", "norm_eps"), "small"),
        (("spec", "tie_embeddings"), "no"),
        (("spec", "eos_ids"), ["</s>"]),
        (("spec", "rotary"), None),
        (("spec", "rotary", "base"), [1]),
        (("spec", "rotary", "scaling"), "longrope"),
        (("spec", "layer"), "circular"),
        (("spec", "alibi_slopes"), [0.5]),
        (("spec", "alibi_slopes"), ["steep"] * 6),
        (("spec", "window"), 0),
        (("spec", "dtype"), "int3"),
        (("spec", "unknown"), 1),
        (("spec",), None),
        (("weight_files",), ["../weights.safetensors"]),
        (("weight_files",), 3),
        (("extra",), 1),
    ],
)
def test_load_damaged_manifest_is_an_error(path, value, source, tmp_path, load):
    convert(source, tmp_path / "out")
    file = tmp_path / "out" / "turbomind.json"
    content = json.loads(file.read_text())
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    file.write_text(json.dumps(content))
    with pytest.raises(CheckpointError):
        load(tmp_path / "out")


def test_load_engine_format_as_hf_is_refused(source, tmp_path, load):
    convert(source, tmp_path / "out")
    load(tmp_path / "out", model_format="turbomind")
    with pytest.raises(ConfigError, match="not in hf format"):
        load(tmp_path / "out", model_format="hf")
