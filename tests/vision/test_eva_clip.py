"""EVA-CLIP and the Q-Former against transformers' BLIP-2, whose tensors have other names."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lmcourse.vision.clip import ClipSpec
from lmcourse.vision.eva_clip import EvaTower
from lmcourse.vision.qformer import QFormer, QFormerSpec


def fill(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.02, 0.2)
    return model.eval()


def copy(module: nn.Module, values: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(values.pop(name).reshape(parameter.shape))
    assert not values


def linear(ours: str, *theirs: nn.Module) -> dict[str, torch.Tensor]:
    leaves = ("weight", "bias")
    return {f"{ours}.{leaf}": torch.cat([getattr(module, leaf).detach() for module in theirs]) for leaf in leaves}


def test_tower_is_transformers(seed) -> None:
    from transformers import Blip2VisionConfig, Blip2VisionModel

    sizes = {"hidden_size": 42, "intermediate_size": 60, "num_hidden_layers": 3, "num_attention_heads": 3}
    model = fill(Blip2VisionModel(Blip2VisionConfig(**sizes, image_size=21, patch_size=7, layer_norm_eps=1e-6)))
    tower = EvaTower(ClipSpec(42, 60, 3, 3, side=21, patch=7, activation="gelu", norm_eps=1e-6))
    embeddings = model.embeddings
    values = {"class_token": embeddings.class_embedding, "positions": embeddings.position_embedding}
    values |= linear("patches", embeddings.patch_embedding)
    for n, layer in enumerate(model.encoder.layers):
        qkv = layer.self_attn.qkv
        with torch.no_grad():
            qkv.bias[42:84] = torch.randn(42)  # keys' bias changes nothing; here it is stored
        parts = {"attention_norm": layer.layer_norm1, "qkv": qkv, "output": layer.self_attn.projection}
        parts |= {"mlp_norm": layer.layer_norm2, "up": layer.mlp.fc1, "down": layer.mlp.fc2}
        for ours, theirs in parts.items():
            values |= linear(f"layers.{n}.{ours}", theirs)
    copy(tower, values)
    pixels = torch.randn(2, 3, 21, 21)
    with torch.no_grad():
        wanted = model(pixels).last_hidden_state
        found = model.post_layernorm(tower(pixels))
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize("every", [1, 2])
def test_qformer_is_transformers(every, seed) -> None:
    from transformers import Blip2QFormerConfig, Blip2QFormerModel

    sizes = {"hidden_size": 192, "intermediate_size": 60, "num_hidden_layers": 3, "num_attention_heads": 3}
    config = Blip2QFormerConfig(**sizes, encoder_hidden_size=42, cross_attention_frequency=every)
    model = fill(Blip2QFormerModel(config))
    former = QFormer(QFormerSpec(hidden=192, intermediate=60, num_layers=3, num_queries=5, seen=42, every=every))
    queries = torch.randn(5, 192)
    values = {"queries": queries} | linear("norm", model.layernorm)
    for n, layer in enumerate(model.encoder.layer):
        for ours, theirs in (("attention", layer.attention), ("looking", getattr(layer, "crossattention", None))):
            if theirs is not None:
                inner, stem = theirs.attention, f"layers.{n}.{ours}"
                values |= linear(f"{stem}.query", inner.query) | linear(f"{stem}.key_value", inner.key, inner.value)
                values |= linear(f"{stem}.output", theirs.output.dense) | linear(
                    f"{stem}.norm", theirs.output.LayerNorm
                )
        values |= linear(f"layers.{n}.up", layer.intermediate_query.dense)
        values |= linear(f"layers.{n}.down", layer.output_query.dense)
        values |= linear(f"layers.{n}.mlp_norm", layer.output_query.LayerNorm)
    copy(former, values)
    seen = torch.randn(2, 10, 42)
    with torch.no_grad():
        wanted = model(query_embeds=queries.expand(2, -1, -1), encoder_hidden_states=seen).last_hidden_state
        torch.testing.assert_close(former(seen), wanted, rtol=0, atol=2e-5)
