"""AWQ checkpoints of families with experts: the same logits as plain checkpoints of the weights that they stand for."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parent))

import expert_cases

from lmcourse.models.loading import open_checkpoint

GROUP, ORDER = 16, (0, 4, 1, 5, 2, 6, 3, 7)  # which nibble of a word holds output column 0, 1, …
AWQ = {"quant_method": "awq", "version": "gemm", "bits": 4, "group_size": GROUP, "zero_point": True}


def unpack(words: Tensor) -> Tensor:
    nibbles = torch.stack([(words.long() >> (4 * nibble)) & 15 for nibble in ORDER], dim=-1)
    return nibbles.flatten(1).double()


def plain_weight(tensors: dict[str, Tensor], name: str) -> Tensor:
    values, zeros = unpack(tensors[f"{name}.qweight"]), unpack(tensors[f"{name}.qzeros"])
    scales = tensors[f"{name}.scales"].double()
    return ((values - zeros.repeat_interleave(GROUP, 0)) * scales.repeat_interleave(GROUP, 0)).T.float().contiguous()


@pytest.mark.parametrize(
    "case",
    [
        expert_cases.mixtral(intermediate_size=32),
        expert_cases.qwen2_moe(moe_intermediate_size=32, shared_expert_intermediate_size=96, intermediate_size=64),
        expert_cases.deepseek(moe_intermediate_size=32, intermediate_size=64),
    ],
    ids=lambda case: case.config["model_type"],
)
def test_packed_experts_equal_their_plain_weights(case, seed, write, load, open_session):
    config = case.config | {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 40}
    packed = write((config | {"quantization_config": AWQ}, {}), "packed")
    (packed / "model.safetensors").unlink()
    (packed / "random_weights.json").write_text(json.dumps({"seed": seed % 1000, "std": 0.2}))
    drawn = open_checkpoint(packed, torch.device("cpu"))
    words = {name: drawn.read_words(name) for name in drawn.tensors if name.endswith(("qweight", "qzeros"))}
    tensors = words | {name: drawn.read(name) for name in drawn.tensors if name not in words}
    names = [name.removesuffix(".qweight") for name in tensors if name.endswith("qweight")]
    assert any(".experts.3." in name for name in names)
    assert not any("gate.qweight" in name for name in tensors)
    plain = {
        name: tensor.float() for name, tensor in tensors.items() if not name.endswith(("qweight", "qzeros", "scales"))
    }
    plain |= {f"{name}.weight": plain_weight(tensors, name) for name in names}
    small, large = (load(folder) for folder in (packed, write((config, plain), "plain")))
    draw = lambda: torch.randint(40, (9,)).tolist()  # noqa: E731
    ids = expert_cases.clearly_routed(draw, lambda ids: open_session(large).step({"a": ids}))
    got, want = (open_session(decoder).step({"a": ids})["a"] for decoder in (small, large))
    torch.testing.assert_close(got, want, atol=1e-3, rtol=1e-3)
