"""The stand-ins for the lesson's imports: what they accept, what they refuse, and that nothing remote runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lmcourse.baseline import AutoModelForCausalLM, AutoTokenizer, notes
from lmcourse.bundled import model_path
from lmcourse.errors import ConfigError, ModelNotFoundError, UnsupportedModelError
from lmcourse.models import convert


@pytest.mark.parametrize(
    ("settings", "dtype"),
    [
        ({}, torch.float32),
        ({"torch_dtype": torch.float16}, torch.float16),
        ({"dtype": "bfloat16"}, torch.bfloat16),
        ({"dtype": torch.float16, "torch_dtype": torch.float32}, torch.float16),
        ({"torch_dtype": "auto"}, torch.bfloat16),
    ],
)
def test_from_pretrained_dtype(make_pair, settings, dtype):
    model = AutoModelForCausalLM.from_pretrained(make_pair().folder, **settings)
    assert model.dtype == dtype
    assert not model.training


def test_from_pretrained_unknown_dtype_is_a_config_error(make_pair):
    with pytest.raises(ConfigError, match="int8"):
        AutoModelForCausalLM.from_pretrained(make_pair().folder, dtype="int8")


def test_from_pretrained_unknown_keyword_raises(make_pair):
    with pytest.raises(TypeError, match="torch_dtpye"):
        AutoModelForCausalLM.from_pretrained(make_pair().folder, torch_dtpye=torch.float16)


def test_from_pretrained_runs_nothing_that_came_with_the_checkpoint(make_pair, tmp_path, capsys):
    pair, marker = make_pair(), tmp_path / "ran"
    for name in ("configuration_internlm2.py", "modeling_internlm2.py", "tokenization_internlm2.py"):
        (pair.folder / name).write_text(f"open({str(marker)!r}, 'w').close()\n")
    (pair.folder / "tokenizer.json").write_text(
        (model_path("tiny-chat") / "tokenizer.json").read_text("utf-8"), "utf-8"
    )
    remote = {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]}
    settings = {"tokenizer_class": "InternLM2Tokenizer", "auto_map": remote}
    (pair.folder / "tokenizer_config.json").write_text(json.dumps(settings))
    notes.say_once.cache_clear()
    AutoTokenizer.from_pretrained(pair.folder, trust_remote_code=True)
    AutoModelForCausalLM.from_pretrained(pair.folder, trust_remote_code=True)
    assert not marker.exists()
    assert capsys.readouterr().out.count("no code of the checkpoint is run") == 1


def test_from_pretrained_expands_the_home_folder(make_pair, monkeypatch):
    folder = make_pair().folder
    monkeypatch.setenv("HOME", str(folder.parent))
    assert AutoModelForCausalLM.from_pretrained("~/internlm2").name_or_path == str(folder)


def test_from_pretrained_by_bundled_name():
    model = AutoModelForCausalLM.from_pretrained("tiny-chat")
    assert Path(model.name_or_path) == model_path("tiny-chat")
    assert AutoTokenizer.from_pretrained("tiny-chat").eos_token_id == 2


def test_from_pretrained_of_a_folder_that_is_not_there():
    with pytest.raises(ModelNotFoundError):
        AutoModelForCausalLM.from_pretrained("~/no-such-model")


def test_from_pretrained_of_a_native_family_has_chat_too(tmp_path, seed):
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4}
    llama = LlamaForCausalLM(LlamaConfig(**shape, vocab_size=100)).eval()
    llama.save_pretrained(tmp_path / "llama")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "llama")
    ids = torch.arange(40)[None]
    assert isinstance(model, LlamaForCausalLM)
    assert hasattr(model, "chat")
    assert torch.equal(model(ids).logits, llama(ids).logits)
    model.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again/config.json").read_text())["architectures"] == ["LlamaForCausalLM"]


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "baichuan", "auto_map": {"AutoConfig": "configuration_baichuan.BaichuanConfig"}},
        {"model_type": "nonesuch"},
        {"no": "model type"},
    ],
)
def test_from_pretrained_of_an_architecture_that_needs_remote_code(make_pair, config):
    folder = make_pair().folder
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match="never run"):
        AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)


def test_from_pretrained_of_a_folder_in_the_engines_format(tmp_path):
    convert(model_path("tiny-chat"), tmp_path / "converted")
    with pytest.raises(UnsupportedModelError, match="engine's own"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "converted")
