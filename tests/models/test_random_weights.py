"""Weights that are drawn: the published generator, the same bits wherever and whenever, and models that run on them."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from lmcourse.accounting import count_parameters
from lmcourse.baseline import AutoModelForCausalLM
from lmcourse.bench import mixed_requests, run_engine, run_transformers
from lmcourse.bundled import dummy_path
from lmcourse.config import TurbomindEngineConfig
from lmcourse.engine import Engine
from lmcourse.errors import CheckpointError, MemoryBudgetError
from lmcourse.models import Checkpoint, convert, load_decoder, load_spec, open_checkpoint
from lmcourse.models.random_weights import _mix
from lmcourse.quant.packing import unpack_columns

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    """Of Llama's family: a config and the two files that stand in for weights and tokenizer."""
    shutil.copytree(dummy_path("dummy:tiny"), tmp_path / "model")
    config = json.loads((dummy_path("dummy:llama2-7b") / "config.json").read_text())
    config |= {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 512}
    config |= {"num_attention_heads": 4, "num_key_value_heads": 2, "torch_dtype": "float32"}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    return tmp_path / "model"


def test_mix_gives_splitmix64s_published_numbers():
    """The first outputs for the seed 1234567, as implementations of the algorithm are commonly checked."""
    drawn = [value % 2**64 for value in _mix(torch.arange(3), 1234567).tolist()]
    assert drawn == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_random_checkpoint_is_the_same_every_time_and_differs_by_name_and_seed(folder):
    name, other = "model.layers.0.mlp.gate_proj.weight", "model.layers.1.mlp.gate_proj.weight"
    first, second = (open_checkpoint(folder, CPU).read(name) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, open_checkpoint(folder, CPU).read(other))
    (folder / "random_weights.json").write_text('{"seed": 1, "std": 0.02}')
    assert not torch.equal(first, open_checkpoint(folder, CPU).read(name))


def test_random_checkpoint_draws_evenly_with_the_stated_deviation():
    source = open_checkpoint(dummy_path("dummy:llama2-7b"), CPU)
    weight = source.read("model.layers.3.self_attn.k_proj.weight").float()
    assert weight.shape == (4096, 4096)
    assert weight.std().item() == pytest.approx(0.02, rel=1e-3)
    assert abs(weight.mean().item()) < 2e-5
    assert weight.abs().max().item() == pytest.approx(0.02 * 3**0.5, rel=1e-3)
    rows = weight[:64].double()
    nearness = (rows @ rows.T / rows.norm(dim=1).outer(rows.norm(dim=1))).fill_diagonal_(0)
    assert nearness.abs().max() < 0.1  # rows are as good as independent: 1/64 on average
    assert torch.equal(source.read("model.norm.weight"), torch.ones(4096, dtype=torch.float16))


def test_random_checkpoint_draws_packed_matrices_of_the_same_deviation():
    source = open_checkpoint(dummy_path("dummy:internlm2-1_8b:awq"), CPU)
    name = "model.layers.2.feed_forward.w2."
    values, zeros = (unpack_columns(source.read_words(name + leaf)).float() for leaf in ("qweight", "qzeros"))
    scales = source.read(name + "scales").float()
    assert (values.shape, zeros.shape, scales.shape) == ((8192, 2048), (64, 2048), (64, 2048))
    assert torch.equal(values.unique(), torch.arange(16.0))
    assert torch.equal(zeros.unique(), torch.tensor([7.0, 8.0]))
    weight = (values - zeros.repeat_interleave(128, 0)) * scales.repeat_interleave(128, 0)
    assert weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert abs(weight.mean().item()) < 1e-4
    assert torch.equal(source.read_words(name + "qweight"), source.read_words(name + "qweight"))


def test_only_the_layers_matrices_are_packed():
    source = open_checkpoint(dummy_path("dummy:llama2-7b:awq"), CPU)
    plain = {name for name in source.tensors if name.endswith(".weight")}
    assert {"lm_head.weight", "model.embed_tokens.weight"} < plain
    assert all("norm" in name for name in plain if ".layers." in name)


@pytest.mark.gpu
def test_random_checkpoint_on_cuda_has_the_bits_of_the_cpu():
    folder, name = dummy_path("dummy:internlm2-1_8b"), "model.layers.5.attention.wqkv.weight"
    here, there = (open_checkpoint(folder, torch.device(place)).read(name) for place in ("cpu", "cuda"))
    assert torch.equal(here, there.cpu())


@pytest.mark.parametrize("name", ["dummy:tiny", "of Llama's family"])
def test_engine_and_transformers_agree_on_drawn_weights(name, folder):
    folder = folder if name.startswith("of") else dummy_path(name)
    requests = mixed_requests(3, vocab=512, seed=2, prompt_lens=(3, 20), output_lens=(4, 12))
    with Engine.from_folder(folder, TurbomindEngineConfig(dtype="float32"), device="cpu") as engine:
        ours = run_engine(engine, requests)
    assert ours == run_transformers(AutoModelForCausalLM.from_pretrained(folder), requests)


def test_engine_runs_on_packed_drawn_weights():
    config = TurbomindEngineConfig(dtype="float32", model_format="awq")
    requests = mixed_requests(2, vocab=512, seed=2, prompt_lens=(3, 9), output_lens=(4, 6))
    with Engine.from_folder(dummy_path("dummy:tiny:awq"), config, device="cpu") as engine:
        assert [len(ids) for ids in run_engine(engine, requests)] == [r.num_output_tokens for r in requests]
        assert engine.stats().weight_bytes < 0.4 * 4 * count_parameters(engine.spec).total


def test_dummy_shapes_are_the_published_ones():
    assert count_parameters(load_spec(dummy_path("dummy:internlm2-1_8b"))).total == 1_889_110_016
    assert count_parameters(load_spec(dummy_path("dummy:llama2-7b"))).total == 6_738_415_616


def test_engine_whose_weights_exceed_the_budget_says_so_before_drawing_them(monkeypatch):
    monkeypatch.setenv("LMCOURSE_DEVICE_MEMORY_GIB", "2")
    with pytest.raises(MemoryBudgetError, match=r"7\.04 GiB free") as caught:
        Engine.from_folder(dummy_path("dummy:internlm2-1_8b"), device="cpu")
    assert "LMCOURSE_DEVICE_MEMORY_GIB" in str(caught.value)


def test_convert_writes_drawn_weights_down(folder, tmp_path):
    convert(folder, tmp_path / "converted")
    drawn, stored = (load_decoder(f, dtype=torch.float32, device=CPU) for f in (folder, tmp_path / "converted"))
    for (name, one), other in zip(drawn.state_dict().items(), stored.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    assert (tmp_path / "converted" / "byte_tokenizer.json").is_file()


def test_stored_weights_go_before_drawn_ones(folder):
    source = open_checkpoint(folder, CPU)
    save_file({name: source.read(name) + 1 for name in source.tensors}, folder / "model.safetensors")
    stored = open_checkpoint(folder, CPU)
    assert isinstance(stored, Checkpoint)
    assert torch.equal(stored.read("model.norm.weight"), torch.full((64,), 2.0))


@pytest.mark.parametrize(
    "content", ["{}", '{"seed": "0"}', '{"seed": 0, "std": -1}', '{"seed": 0, "sdt": 0.1}', '{"seed": true}', "[]"]
)
def test_random_weights_file_that_cannot_be_used_is_a_checkpoint_error(folder, content):
    (folder / "random_weights.json").write_text(content)
    with pytest.raises(CheckpointError):
        load_decoder(folder, dtype=torch.float32, device=CPU)
