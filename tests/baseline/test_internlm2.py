"""InternLM2 on transformers' own Llama classes, against the Llama that the checkpoint was made from."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoConfig

from lmcourse.baseline import AutoModelForCausalLM, InternLM2Config, InternLM2ForCausalLM
from lmcourse.baseline.internlm2 import split_wqkv
from lmcourse.errors import CheckpointError


@torch.inference_mode()
def largest_difference(model, llama, num_tokens=150):
    ids = torch.randint(0, llama.config.vocab_size, (2, num_tokens))
    return (model(ids).logits - llama(ids).logits).abs().max().item()


@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(8, 8), (8, 2), (8, 1), (4, 4)])
@pytest.mark.parametrize("bias", [False, True])
def test_from_pretrained_equals_the_llama_it_was_made_from(make_pair, num_heads, num_kv_heads, bias):
    pair = make_pair(bias=bias, num_attention_heads=num_heads, num_key_value_heads=num_kv_heads)
    model = AutoModelForCausalLM.from_pretrained(pair.folder)
    assert type(model) is InternLM2ForCausalLM
    assert largest_difference(model, pair.llama) == 0


@pytest.mark.parametrize("rope_scaling", [None, {"type": "dynamic", "factor": 2.0}])
def test_from_pretrained_reads_both_published_forms_of_rope_scaling(make_pair, rope_scaling):
    pair = make_pair(rope_scaling=rope_scaling)
    model = AutoModelForCausalLM.from_pretrained(pair.folder)
    assert largest_difference(model, pair.llama, num_tokens=200) == 0  # beyond the trained context of 128


def test_from_pretrained_through_transformers_own_auto_class(make_pair):
    pair = make_pair(bias=True)
    assert type(AutoConfig.from_pretrained(pair.folder, trust_remote_code=False)) is InternLM2Config
    for trust in (False, True):
        model = transformers.AutoModelForCausalLM.from_pretrained(
            pair.folder, dtype=torch.float32, trust_remote_code=trust
        )
        assert largest_difference(model, pair.llama) == 0


def test_save_pretrained_can_be_read_again(make_pair, tmp_path):
    pair = make_pair()
    AutoModelForCausalLM.from_pretrained(pair.folder).save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved/config.json").read_text())["model_type"] == "internlm2"
    assert largest_difference(AutoModelForCausalLM.from_pretrained(tmp_path / "saved"), pair.llama) == 0


def test_from_pretrained_of_shards(make_pair):
    pair = make_pair()
    names = sorted(pair.tensors)
    files = {name: f"model-{i % 3}.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: pair.tensors[name] for name in names if files[name] == file}, pair.folder / file)
    (pair.folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    (pair.folder / "model.safetensors").unlink()
    assert largest_difference(AutoModelForCausalLM.from_pretrained(pair.folder), pair.llama) == 0


def test_split_wqkv_takes_apart_groups_of_one_kv_head():
    # Two kv heads with two query heads each; a row's number says whose it is.
    rows = [10, 11, 12, 13, 90, 91, 70, 71, 14, 15, 16, 17, 92, 93, 72, 73]
    q, k, v = split_wqkv(torch.tensor(rows), num_kv_heads=2, head_dim=2)
    assert q.tolist() == list(range(10, 18))
    assert k.tolist() == [90, 91, 92, 93]
    assert v.tolist() == [70, 71, 72, 73]


def test_from_pretrained_with_a_fused_projection_of_another_shape(make_pair):
    pair = make_pair()
    name = "model.layers.1.attention.wqkv.weight"
    pair.tensors[name] = pair.tensors[name][:-8].clone()
    pair.save()
    with pytest.raises(CheckpointError, match=r"layers\.1\.attention\.wqkv") as caught:
        AutoModelForCausalLM.from_pretrained(pair.folder)
    assert caught.value.got == [88, 64]


@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.0.attention.wqkv.weight", "output.weight"])
def test_from_pretrained_with_a_missing_tensor_is_an_error_and_not_a_random_weight(make_pair, name):
    pair = make_pair()
    del pair.tensors[name]
    pair.save()
    with pytest.raises(CheckpointError, match="lacks weights"):
        AutoModelForCausalLM.from_pretrained(pair.folder)


def test_from_pretrained_with_a_wrong_shape_is_a_checkpoint_error(make_pair):
    pair = make_pair()
    pair.tensors["model.norm.weight"] = torch.ones(32)
    pair.save()
    with pytest.raises(CheckpointError, match="do not fit"):
        AutoModelForCausalLM.from_pretrained(pair.folder)


def test_from_pretrained_with_a_tensor_too_many_warns_and_names_it(make_pair):
    pair = make_pair()
    pair.tensors["model.surprise.weight"] = torch.ones(3)
    pair.save()
    with pytest.warns(UserWarning, match=r"model\.surprise\.weight"):
        AutoModelForCausalLM.from_pretrained(pair.folder)


@pytest.mark.parametrize("damage", ["cut", "pickled", "none"])
def test_from_pretrained_of_unusable_weights(make_pair, damage):
    pair = make_pair()
    file = pair.folder / "model.safetensors"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    else:
        file.unlink()
    if damage == "pickled":
        torch.save(pair.tensors, pair.folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError):
        AutoModelForCausalLM.from_pretrained(pair.folder)
