"""auto_awq on every dense family: scales go where they can, and 4-bit models say nearly what they said before."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

sys.path.append(str(Path(__file__).parents[1] / "models"))
from family_cases import PACKABLE

from lmcourse.kernels import LayerKV, RaggedBatch
from lmcourse.lite import METHODS, AwqJob, auto_awq
from lmcourse.models import load_decoder
from lmcourse.quant import QuantSettings

TOKENIZER = {"vocab_size": 320, "first_byte_id": 3}


def logits(folder, ids):
    decoder, count = load_decoder(folder, dtype=torch.float32, device=torch.device("cpu")), len(ids)
    shape = (1, decoder.spec.num_kv_heads, count, decoder.spec.head_dim)
    kv = [LayerKV(torch.zeros(shape), torch.zeros(shape)) for _ in range(decoder.spec.num_layers)]
    places, table = torch.arange(count), torch.zeros(1, 1, dtype=torch.int32)
    batch = RaggedBatch(places, places, table, (0, count), (count,), torch.full((count,), count), 0)
    return decoder.logits(decoder(torch.tensor(ids), batch, kv))


@pytest.mark.parametrize("family", ["QWen", "ChatGLM2", "Falcon 40B", "Falcon RW", "Gemma"])
def test_scaled_and_rounded_models_are_near_the_old_one(family, tmp_path):
    seed = int(torch.randint(2**31, ()).item())
    print(f"seed {seed}")
    torch.manual_seed(seed)
    config, tensors = PACKABLE[family]().draw()
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(config))
    (source / "byte_tokenizer.json").write_text(json.dumps(TOKENIZER))
    (source / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": False}))
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    ids = torch.randint(3, 259, (24,)).tolist()
    want, errors = logits(source, ids), {}
    for name in ("rtn", "smooth"):
        job = AwqJob(calib_samples=4, calib_seqlen=32, method=METHODS[name], settings=QuantSettings(group_size=16))
        auto_awq(source, tmp_path / name, job, device="cpu")
        errors[name] = float((logits(tmp_path / name, ids) - want).norm() / want.norm())
    print(errors)
    assert errors["rtn"] < 1.0
    assert errors["smooth"] < 1.3 * errors["rtn"] + 0.05
