"""AWQ checkpoints, written here by hand in the published layout, run like the weights that they stand for."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent))
from family_cases import PACKABLE

from lmcourse.errors import CheckpointError, ConfigError, UnsupportedModelError
from lmcourse.models import convert, load_decoder, load_spec

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
CONFIG = {"quant_method": "awq", "version": "gemm", "bits": 4, "group_size": 16, "zero_point": True}
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}


def pack_by_hand(values):
    """int64 [rows, columns] → int32 words along columns, in AutoAWQ's order."""
    rows, columns = values.shape
    words = torch.zeros(rows, columns // 8, dtype=torch.int64)
    for nibble, column in enumerate(ORDER):
        words += values[:, column::8].long() << (4 * nibble)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def quantised(model, group=16, keep=()):
    """The model with random packed matrices, and the plain model that means the same."""
    config, tensors = model
    packed, plain = dict(tensors), {}
    for name, tensor in tensors.items():
        if tensor.dim() != 2 or not re.search(r"\.\d+\.", name) or any(part in name for part in keep):
            plain[name] = tensor.half().float()
            packed[name] = tensor.half()
            continue
        out_features, in_features = tensor.shape
        q = torch.randint(0, 16, (in_features, out_features))
        zeros = torch.randint(0, 16, (in_features // group, out_features))
        scales = (torch.rand(in_features // group, out_features) * 0.03).half()
        stem = packed.pop(name) is not None and name.removesuffix("weight")
        packed[stem + "qweight"], packed[stem + "qzeros"] = pack_by_hand(q), pack_by_hand(zeros)
        packed[stem + "scales"] = scales
        whole = (q - zeros.repeat_interleave(group, 0)) * scales.float().repeat_interleave(group, 0)
        plain[name] = whole.t().contiguous()
    return (config | {"quantization_config": CONFIG | {"group_size": group}}, packed), (config, plain)


def run(folder, **keywords):
    decoder = load_decoder(folder, dtype=torch.float32, device=torch.device("cpu"), **keywords)
    return decoder


def logits(decoder, open_session):
    ids = torch.randint(0, 131, (12,), generator=torch.Generator().manual_seed(0)).tolist()
    return open_session(decoder).step({"a": ids})["a"]


@pytest.mark.parametrize("family", ["llama", "internlm2"])
@pytest.mark.parametrize("bias", [False, True])
def test_awq_runs_like_the_weights_it_stands_for(tiny_llama, relaid, write, family, bias, open_session):
    model = tiny_llama(**SIZES, attention_bias=bias)
    if family == "internlm2":
        model = relaid(model)
    packed, plain = quantised(model)
    small, large = run(write(packed, "packed")), run(write(plain, "plain"))
    assert small.layers[0].attention.qkv.matrix.group_size == 16
    assert "words" in repr(small.layers[0].mlp.down)
    torch.testing.assert_close(logits(small, open_session), logits(large, open_session), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", PACKABLE)
def test_awq_of_every_family_runs_like_the_weights_it_stands_for(family, write, open_session, seed):
    packed, plain = quantised(PACKABLE[family]().draw())
    small, large = run(write(packed, "packed")), run(write(plain, "plain"))
    matrices = [module for name, module in small.layers.named_modules() if hasattr(module, "matrix")]
    assert len(matrices) == 12
    assert all(hasattr(module, "words") for module in matrices)
    ids = torch.randint(0, 67, (12,)).tolist()
    got, want = (open_session(decoder).step({"a": ids})["a"] for decoder in (small, large))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_awq_without_a_config_and_with_parts_left_plain(tiny_llama, write, open_session):
    packed, plain = quantised(tiny_llama(**SIZES), keep=("down_proj", "layers.1."))
    config = {key: value for key, value in packed[0].items() if key != "quantization_config"}
    folder = write((config, packed[1]), "packed")
    small, large = run(folder, model_format="awq"), run(write(plain, "plain"))
    assert small.layers[0].mlp.down.matrix.weight.dtype == torch.float32
    torch.testing.assert_close(logits(small, open_session), logits(large, open_session), rtol=1e-4, atol=1e-4)


def test_autoawq_names_and_one_group_for_all(tiny_llama, write, open_session):
    packed, plain = quantised(tiny_llama(**SIZES), group=32)
    packed[0]["quantization_config"] = {"quant_method": "awq", "version": "GEMM", "w_bit": 4, "q_group_size": 32}
    small, large = run(write(packed, "packed")), run(write(plain, "plain"))
    torch.testing.assert_close(logits(small, open_session), logits(large, open_session), rtol=1e-4, atol=1e-4)


def test_convert_keeps_every_packed_bit(tiny_llama, relaid, write, tmp_path, open_session):
    folder = write(quantised(relaid(tiny_llama(**SIZES)))[0])
    rows = convert(folder, tmp_path / "engine")
    assert any(row.dtype == "int32" and "qweight" in str(row) for row in rows)
    direct, converted = run(folder), run(tmp_path / "engine")
    assert load_spec(tmp_path / "engine").dtype == "float16"
    for (name, one), (_, two) in zip(direct.named_parameters(), converted.named_parameters(), strict=True):
        assert torch.equal(one, two), name
    assert torch.equal(logits(direct, open_session), logits(converted, open_session))


def change(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


@pytest.mark.parametrize(
    ("stated", "error", "message"),
    [
        (CONFIG | {"bits": 3}, UnsupportedModelError, "3 bits"),
        (CONFIG | {"version": "gemv"}, UnsupportedModelError, "gemv"),
        (CONFIG | {"group_size": 32}, CheckpointError, "disagree"),
        (CONFIG | {"quant_method": "gptq"}, UnsupportedModelError, "gptq"),
        ("awq", UnsupportedModelError, "awq"),
    ],
)
def test_quantization_config_that_does_not_fit_is_named(tiny_llama, write, stated, error, message):
    folder = change(write(quantised(tiny_llama(**SIZES))[0]), quantization_config=stated)
    with pytest.raises(error, match=message):
        run(folder)


def test_wrong_format_is_named(tiny_llama, write):
    packed, plain = quantised(tiny_llama(**SIZES))
    with pytest.raises(ConfigError, match="not in hf format"):
        run(write(packed, "packed"), model_format="hf")
    with pytest.raises(ConfigError, match="not in awq format"):
        run(write(plain, "plain"), model_format="awq")


@pytest.mark.parametrize("leaf", ["qweight", "qzeros", "scales"])
@pytest.mark.parametrize("damage", ["shape", "missing", "dtype"])
def test_damaged_packed_tensors_are_named(tiny_llama, write, leaf, damage):
    (config, tensors), _ = quantised(tiny_llama(**SIZES))
    name = f"model.layers.1.self_attn.k_proj.{leaf}"
    if damage == "shape":
        tensors[name] = tensors[name][:, :-1].contiguous()
    elif damage == "dtype":
        tensors[name] = tensors[name].double() if leaf != "scales" else tensors[name].to(torch.int8)
    else:
        del tensors[name]
    with pytest.raises(CheckpointError, match=r"k_proj"):
        run(write((config, tensors)))


def test_scales_that_are_not_finite_are_named(tiny_llama, write):
    (config, tensors), _ = quantised(tiny_llama(**SIZES))
    tensors["model.layers.0.mlp.up_proj.scales"][0, 3] = torch.nan
    with pytest.raises(CheckpointError, match=r"up_proj\.scales is not finite"):
        run(write((config, tensors)))
