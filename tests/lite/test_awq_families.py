"""auto_awq on every dense family: scales alone change nothing, rounding moves a weight by half a step at most."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

sys.path.append(str(Path(__file__).parents[1] / "models"))
from family_cases import PACKABLE

from lmcourse.kernels import LayerKV, RaggedBatch
from lmcourse.lite import METHODS, AwqJob, auto_awq
from lmcourse.lite.held_tensors import unpacked
from lmcourse.models import load_decoder
from lmcourse.quant import QuantSettings

CPU = torch.device("cpu")
TOKENIZER = {"vocab_size": 320, "first_byte_id": 3}
GROUP = 16
FOLDED = {  # into what scales go, and what reads it
    "QWen": {"ln_1", "ln_2", "attn.c_attn", "mlp.w1", "mlp.w2", "mlp.c_proj"},
    "ChatGLM2": {"input_layernorm", "post_attention_layernorm", "self_attention.query_key_value", "mlp.dense_h_to_4h"},
    "Falcon 40B": {"ln_attn", "ln_mlp", "self_attention.query_key_value", "mlp.dense_h_to_4h"},
    "Falcon RW": {"input_layernorm", "post_attention_layernorm", "self_attention.query_key_value", "mlp.dense_h_to_4h"},
    "Gemma": {"mlp.up_proj", "mlp.down_proj"},  # a norm of 1 + weight takes none
}


def logits(folder, ids):
    decoder, count = load_decoder(folder, dtype=torch.float32, device=CPU), len(ids)
    shape = (1, decoder.spec.num_kv_heads, count, decoder.spec.head_dim)
    kv = [LayerKV(torch.zeros(shape), torch.zeros(shape)) for _ in range(decoder.spec.num_layers)]
    places, table = torch.arange(count), torch.zeros(1, 1, dtype=torch.int32)
    batch = RaggedBatch(places, places, table, (0, count), (count,), torch.full((count,), count), 0)
    return decoder.logits(decoder(torch.tensor(ids), batch, kv))


def write(folder, config, tensors):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "byte_tokenizer.json").write_text(json.dumps(TOKENIZER))
    (folder / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": False}))
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(params=FOLDED)
def drawn(request):
    """A family's config and tensors; float16 holds all of them, so that storing what is not packed loses nothing."""
    seed = int(torch.randint(2**31, ()).item())
    print(f"seed {seed}")
    torch.manual_seed(seed)
    config, tensors = PACKABLE[request.param]().draw()
    return request.param, config, {name: tensor.half().float() for name, tensor in tensors.items()}


def job(method):
    return AwqJob(calib_samples=4, calib_seqlen=32, method=method, settings=QuantSettings(group_size=GROUP))


def test_scales_alone_change_no_logits(drawn, tmp_path, monkeypatch):
    """With nothing rounded, what one matrix is multiplied by is divided out before it."""
    family, config, tensors = drawn
    monkeypatch.setattr("lmcourse.lite.layer_quantise.pack_nearest", lambda job, name, weight, _: {name: weight})
    monkeypatch.setattr("lmcourse.lite.layer_quantise._plain", lambda weights: weights.items())
    source = write(tmp_path / "source", config, tensors)
    auto_awq(source, tmp_path / "out", job(METHODS["smooth"].plain()), device="cpu")
    after = {name: tensor.float() for name, tensor in load_file(tmp_path / "out" / "model.safetensors").items()}
    ids = torch.randint(3, 259, (24,)).tolist()
    got, want = logits(write(tmp_path / "plain", config, after), ids), logits(source, ids)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-4 * float(want.abs().max()))
    changed = {name for name in tensors if not torch.equal(after[name], tensors[name])}
    assert {re.sub(r".*\.\d+\.(.*)\.(weight|bias)$", r"\1", name) for name in changed} == FOLDED[family]


@pytest.mark.parametrize("method", ["rtn", "smooth"])
def test_packed_model_speaks_as_the_weights_it_stands_for(drawn, method, tmp_path):
    """And to nearest means: each weight lies within half a step of what it was, where nothing was scaled."""
    _, config, tensors = drawn
    source = write(tmp_path / "source", config, tensors)
    auto_awq(source, tmp_path / "out", job(METHODS[method]), device="cpu")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    plain = {name: tensor.float() for name, tensor in unpacked(stored, CPU).items()}
    ids = torch.randint(3, 259, (24,)).tolist()
    got, want = logits(tmp_path / "out", ids), logits(write(tmp_path / "plain", config, plain), ids)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-4 * float(want.abs().max()))
    steps = {name.removesuffix("scales"): t.float().t() for name, t in stored.items() if name.endswith(".scales")}
    assert steps
    assert plain.keys() == tensors.keys()
    if method == "rtn":
        for name, tensor in tensors.items():
            step = steps.get(name.removesuffix("weight"), torch.zeros(()))
            bound = step.repeat_interleave(GROUP, 1) if step.dim() else step
            # half a step, and 15 · 2⁻¹¹ of one: the scale is stored in float16
            assert ((plain[name] - tensor).abs() <= bound * 0.508).all(), name
