"""Folders that load, and folders that must not."""

from __future__ import annotations

import errno
import gc
import json
import os
import warnings
from pathlib import Path

import pytest
import torch

from lmcourse.errors import CheckpointError, ConfigError, MemoryBudgetError, ModelNotFoundError
from lmcourse.models import Checkpoint, load_spec


@pytest.fixture
def model(tiny_llama):
    return tiny_llama(num_hidden_layers=1)


def test_load_spec_unites_eos_of_config_and_generation_config(model, write):
    folder = write(model)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 99]}))
    assert load_spec(folder).eos_ids == (2, 99)


def test_load_decoder_weights_are_copies_in_the_asked_dtype(model, write, load):
    folder = write(model)
    decoder = load(folder, dtype=torch.float32)
    before = [weight.clone() for weight in decoder.parameters()]
    size = (folder / "model.safetensors").stat().st_size
    (folder / "model.safetensors").write_bytes(b"\xff" * size)
    assert all(torch.equal(a, b) for a, b in zip(before, decoder.parameters(), strict=True))
    assert not any(weight.requires_grad for weight in decoder.parameters())


def test_load_decoder_accepts_home_and_links(model, write, load, tmp_path, monkeypatch):
    write(model, "real")
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load("~/linked").spec.hidden == 48


def test_load_decoder_missing_tensor_is_named(model, write, load):
    config, tensors = model
    del tensors["model.layers.0.self_attn.k_proj.weight"]
    with pytest.raises(CheckpointError, match=r"no tensor model\.layers\.0\.self_attn\.k_proj\.weight") as caught:
        load(write((config, tensors)))
    assert caught.value.where
    assert caught.value.next_step


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("model.layers.0.self_attn.q_proj.weight", (95, 48), "[96, 48]"),
        ("model.layers.0.mlp.up_proj.weight", (48, 80), "[80, 48]"),
        ("model.norm.weight", (48, 1), "[48]"),
        ("lm_head.weight", (130, 48), "[131, 48]"),
    ],
)
def test_load_decoder_wrong_shape_says_expected_and_got(name, shape, expected, model, write, load):
    config, tensors = model
    with pytest.raises(CheckpointError, match=f"{name} has the wrong shape") as caught:
        load(write((config, tensors | {name: torch.zeros(shape)})))
    assert expected in caught.value.expected
    assert caught.value.got == list(shape)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_load_decoder_value_that_is_not_finite_is_named(value, model, write, load):
    _, tensors = model
    tensors["model.layers.0.mlp.down_proj.weight"][3, 4] = value
    with pytest.raises(CheckpointError, match=r"mlp\.down_proj\.weight is not finite") as caught:
        load(write(model))
    assert "damaged" in caught.value.next_step


def test_load_decoder_overflow_of_the_asked_dtype_is_told_apart(model, write, load):
    _, tensors = model
    tensors["model.norm.weight"][0] = 1e6
    load(write(model))
    with pytest.raises(CheckpointError, match=r"not finite in torch\.float16") as caught:
        load(write(model), dtype=torch.float16)
    assert "bfloat16" in caught.value.next_step


def test_load_decoder_warns_of_unused_tensors_but_not_of_rotary_tables(model, write, load):
    config, tensors = model
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8), "model.rotary_emb.inv_freq": torch.ones(8)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(write((config, tensors | extra)))
    with pytest.warns(UserWarning, match=r"does not use: model\.layers\.1\.stray, stray"):
        load(write((config, tensors | extra | {"stray": torch.ones(1), "model.layers.1.stray": torch.ones(1)})))


def test_load_decoder_tied_head_needs_no_tensor_and_accepts_one(tiny_llama, write, load):
    config, tensors = tiny_llama(tie_word_embeddings=True)
    decoder = load(write((config, tensors)))
    assert decoder.head is None
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    load(write((config, tensors), "with head"))


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 10**9},
        {"vocab_size": 2**40},
        {"hidden_size": 2**62},
        {"num_key_value_heads": 5},
        {"head_dim": 15},
        {"head_dim": 2, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
    ],
)
def test_load_spec_sizes_that_no_model_has_are_refused(changes, model, write):
    config, tensors = model
    folder = write((config | changes, tensors))
    with pytest.raises(CheckpointError, match="out of range") as caught:
        load_spec(folder)
    assert caught.value.where == folder / "config.json"


@pytest.mark.parametrize("path", ["x" * 5000, "~no-such-user-here/model", "a\0b"])
def test_load_spec_path_that_cannot_be_is_an_error(path):
    with pytest.raises(ModelNotFoundError):
        load_spec(Path(path))


def test_load_spec_file_that_may_not_be_read_is_an_error(model, write, monkeypatch):
    folder = write(model)

    def refuse(_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read") as caught:
        load_spec(folder)
    assert "Permission denied" in caught.value.got


@pytest.mark.gpu
def test_load_decoder_weights_that_do_not_fit_say_so(tiny_llama, write, load):
    folder = write(tiny_llama(hidden_size=1024, intermediate_size=4096))
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-4)
    try:
        with pytest.raises(MemoryBudgetError, match="do not fit"):
            load(folder, device=torch.device("cuda"))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "missing"),
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[1]", "not a JSON object"),
        (b"\xff\xfe", "not valid JSON"),
    ],
)
def test_load_spec_config_that_cannot_be_read(content, message, tmp_path):
    if content is not None:
        (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_spec(tmp_path)


def test_load_decoder_wrong_format_says_what_was_found(model, write, load):
    with pytest.raises(ConfigError, match="not in turbomind format") as caught:
        load(write(model), model_format="turbomind")
    assert "hf" in caught.value.got
    with pytest.raises(ConfigError, match="not in awq format") as caught:
        load(write(model), model_format="awq")
    assert "auto_awq" in caught.value.expected


def count_tensor_bytes() -> int:
    """Of all CPU tensors that are alive."""
    tensors = [item for item in gc.get_objects() if type(item) in (torch.Tensor, torch.nn.Parameter)]
    storages = [tensor.untyped_storage() for tensor in tensors if tensor.device.type == "cpu" and not tensor.is_mkldnn]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def test_load_decoder_peak_memory_stays_near_the_model(tiny_llama, write, load, monkeypatch):
    folder = write(tiny_llama(hidden_size=256, intermediate_size=512, num_hidden_layers=6, vocab_size=64))
    before, alive = count_tensor_bytes(), []
    read = Checkpoint.read

    def measured_read(self, name):
        tensor = read(self, name)
        if name.startswith("model.layers.5.mlp"):  # nearly all is loaded, and two parts are about to be stacked
            alive.append(count_tensor_bytes() - before)
        return tensor

    monkeypatch.setattr(Checkpoint, "read", measured_read)
    sizes = [weight.nbytes for weight in load(folder).parameters()]
    assert len(alive) == 3
    assert max(alive) <= sum(sizes) + 2 * max(sizes)
