"""auto_awq on mixtures of experts: what is written runs in the engine as the weights that it stands for."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

sys.path.append(str(Path(__file__).parents[1] / "models"))
from expert_cases import clearly_routed

from lmcourse.errors import ConfigError
from lmcourse.kernels import LayerKV, RaggedBatch
from lmcourse.lite import METHODS, AwqJob, auto_awq
from lmcourse.lite.held_tensors import unpacked
from lmcourse.models import load_decoder, open_checkpoint
from lmcourse.models.tiny_models import write_tiny_model
from lmcourse.quant import QuantSettings

FAMILIES = {
    "Mixtral": {"intermediate_size": 48},
    "QWen1.5-MoE": {"moe_intermediate_size": 32, "shared_expert_intermediate_size": 80},
    "DeepSeek-MoE": {"moe_intermediate_size": 32, "intermediate_size": 96},
    "Dbrx": {},
}
SETTINGS = QuantSettings(group_size=16)


@pytest.fixture
def seed():
    value = int(torch.randint(2**31, ()).item())
    print(f"seed {value}")
    torch.manual_seed(value)
    return value % 10_000


def logits(folder, ids):
    decoder, count = load_decoder(folder, dtype=torch.float32, device=torch.device("cpu")), len(ids)
    shape = (1, decoder.spec.num_kv_heads, count, decoder.spec.head_dim)
    kv = [LayerKV(torch.zeros(shape), torch.zeros(shape)) for _ in range(decoder.spec.num_layers)]
    places, table = torch.arange(count), torch.zeros(1, 1, dtype=torch.int32)
    batch = RaggedBatch(places, places, table, (0, count), (count,), torch.full((count,), count), 0)
    return decoder.logits(decoder(torch.tensor(ids), batch, kv))


def plain_copy(packed, folder):
    """The same model with its packed weights as ordinary ones."""
    folder.mkdir()
    config = json.loads((packed / "config.json").read_text())
    config.pop("quantization_config")
    (folder / "config.json").write_text(json.dumps(config))
    plain = unpacked(load_file(packed / "model.safetensors"), torch.device("cpu"))
    tensors = {name: tensor.float() for name, tensor in plain.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["smooth", "search alone"])
def test_experts_run_as_the_weights_they_stand_for(family, method, seed, tmp_path):
    write_tiny_model(family, tmp_path / "source", seed=seed, changes=FAMILIES[family])
    way = METHODS["smooth"] if method == "smooth" else METHODS["search"].plain()
    job = AwqJob(calib_samples=8, calib_seqlen=48, batch_size=3, method=way, settings=SETTINGS)
    auto_awq(tmp_path / "source", tmp_path / "out", job, device="cpu")
    plain = plain_copy(tmp_path / "out", tmp_path / "plain")
    ids = draw_ids(plain)
    got, want = (logits(folder, ids) for folder in (tmp_path / "out", plain))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-4 * float(want.abs().max()))


def draw_ids(folder):
    return clearly_routed(lambda: torch.randint(16, 272, (23,)).tolist(), lambda ids: logits(folder, ids))


@pytest.mark.parametrize("family", FAMILIES)
def test_scales_alone_change_no_logits(family, seed, tmp_path, monkeypatch):
    """With nothing packed, what experts and routers are multiplied by is divided out before them."""
    for module in ("layer_quantise", "expert_quantise"):
        monkeypatch.setattr(f"lmcourse.lite.{module}.pack_nearest", lambda job, name, weight, _: {name: weight})
    monkeypatch.setattr("lmcourse.lite.layer_quantise._plain", lambda weights: weights.items())
    write_tiny_model(family, tmp_path / "source", seed=seed, changes=FAMILIES[family])
    plain = []
    for name in ("rtn", "smooth"):
        job = AwqJob(calib_samples=8, calib_seqlen=48, method=METHODS[name].plain(), settings=SETTINGS)
        auto_awq(tmp_path / "source", tmp_path / name, job, device="cpu")
        plain.append(plain_copy(tmp_path / name, tmp_path / f"plain {name}"))
    ids = draw_ids(plain[0])
    want, got = (logits(folder, ids) for folder in plain)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-4 * float(want.abs().max()))


@pytest.mark.parametrize("family", ["Mixtral", "QWen1.5-MoE"])
def test_routers_get_the_scales_of_what_they_read(family, seed, tmp_path):
    write_tiny_model(family, tmp_path / "source", seed=seed, changes=FAMILIES[family])
    source = open_checkpoint(tmp_path / "source", torch.device("cpu"))
    auto_awq(tmp_path / "source", tmp_path / "out",
             AwqJob(calib_samples=8, calib_seqlen=48, method=METHODS["smooth"].plain(), settings=SETTINGS),
             device="cpu")  # fmt: skip
    after = load_file(tmp_path / "out" / "model.safetensors")
    layer = "model.layers.1."
    norm = layer + "post_attention_layernorm.weight"
    scale = source.read(norm).float() / after[norm].float()
    assert float((scale - 1).abs().max()) > 0.01
    routers = [name for name in after if name.startswith(layer) and name.endswith("gate.weight")]
    assert routers
    for name in routers:
        torch.testing.assert_close(after[name].float(), source.read(name).float() * scale, rtol=4e-3, atol=1e-3)


def test_layout_is_the_published_one(seed, tmp_path):
    write_tiny_model("Mixtral", tmp_path / "source", seed=seed, changes=FAMILIES["Mixtral"])
    job = AwqJob(calib_samples=8, calib_seqlen=48, settings=SETTINGS)
    auto_awq(tmp_path / "source", tmp_path / "out", job, device="cpu")
    after = load_file(tmp_path / "out" / "model.safetensors")
    stem = "model.layers.0.block_sparse_moe"
    for expert in range(4):
        for part, (columns, rows) in {"w1": (64, 48), "w2": (48, 64), "w3": (64, 48)}.items():
            name = f"{stem}.experts.{expert}.{part}"
            assert (after[f"{name}.qweight"].shape, after[f"{name}.qweight"].dtype) == (
                (columns, rows // 8),
                torch.int32,
            )
            assert after[f"{name}.qzeros"].shape == (columns // 16, rows // 8)
            assert (after[f"{name}.scales"].shape, after[f"{name}.scales"].dtype) == (
                (columns // 16, rows),
                torch.float16,
            )
            assert f"{name}.weight" not in after
    assert after[f"{stem}.gate.weight"].dtype == torch.float16
    stated = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert stated["modules_to_not_convert"] == [f"model.layers.{n}.block_sparse_moe.gate" for n in range(2)]


def test_experts_that_few_tokens_reach_are_rounded_and_named(seed, tmp_path):
    write_tiny_model("Mixtral", tmp_path / "source", seed=seed, changes=FAMILIES["Mixtral"])
    job = AwqJob(calib_samples=2, calib_seqlen=24, settings=SETTINGS)  # 48 tokens: no expert can see 64
    auto_awq(tmp_path / "source", tmp_path / "out", job, device="cpu")
    said = json.loads((tmp_path / "out" / "config.json").read_text())["lmcourse_calibration"]
    assert said["experts_rounded_to_nearest"] == {"0": [0, 1, 2, 3], "1": [0, 1, 2, 3]}
    auto_awq(tmp_path / "source", tmp_path / "more", AwqJob(calib_samples=20, calib_seqlen=48, settings=SETTINGS),
             device="cpu")  # fmt: skip
    said = json.loads((tmp_path / "more" / "config.json").read_text())["lmcourse_calibration"]
    assert len(said.get("experts_rounded_to_nearest", {}).get("0", [])) < 4


def test_interrupted_with_experts_it_ends_in_the_same_bits(seed, tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    write_tiny_model("QWen1.5-MoE", tmp_path / "source", seed=seed, changes=FAMILIES["QWen1.5-MoE"])
    job = AwqJob(calib_samples=8, calib_seqlen=48, settings=SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        auto_awq(tmp_path / "source", tmp_path / "out", job, device="cpu", watch=stop)
    assert auto_awq(tmp_path / "source", tmp_path / "out", job, device="cpu").resumed_layers == 1
    auto_awq(tmp_path / "source", tmp_path / "again", job, device="cpu")
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "again"))
    assert all(torch.equal(one[name], two[name]) for name in two)


def test_stacked_experts_become_a_matrix_each(seed, tmp_path):
    """Under the names of published converted checkpoints; whether plain or packed, both folders are read."""
    write_tiny_model("Dbrx", tmp_path / "source", seed=seed, changes=FAMILIES["Dbrx"])
    job = AwqJob(calib_samples=8, calib_seqlen=48, method=METHODS["rtn"], settings=SETTINGS)
    auto_awq(tmp_path / "source", tmp_path / "out", job, device="cpu")
    source = open_checkpoint(tmp_path / "source", torch.device("cpu"))
    after = load_file(tmp_path / "out" / "model.safetensors")
    stem = "transformer.blocks.1.ffn.experts.mlp"
    whole = {part: source.read(f"{stem}.{part}").float() for part in ("w1", "v1", "w2")}
    count = len([name for name in after if name.startswith(stem) and name.endswith("w2.qweight")])
    plain = unpacked(after, torch.device("cpu"))
    for expert in range(count):
        for part, stacked in whole.items():
            want = stacked.chunk(count)[expert]
            got = plain[f"{stem}.{expert}.{part}.weight"]
            assert float(((got.t() if part == "w2" else got) - want).norm() / want.norm()) < 0.2
    assert not any(name.startswith(f"{stem}.w") for name in after)
    assert "transformer.blocks.0.norm_attn_norm.attn.k_proj.qweight" in after


def test_group_that_does_not_divide_an_expert_is_named(seed, tmp_path):
    write_tiny_model("Mixtral", tmp_path / "source", seed=seed, changes={"intermediate_size": 40})
    with pytest.raises(ConfigError, match="intermediate of an expert"):
        auto_awq(tmp_path / "source", tmp_path / "out", AwqJob(settings=SETTINGS), device="cpu")
    assert not (tmp_path / "out").exists()
