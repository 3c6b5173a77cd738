"""auto_awq from folder to folder: layout, function kept by the scales, resuming, and refusals that leave nothing."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lmcourse import model_path
from lmcourse.errors import CalibrationError, ConfigError, StorageError, UnsupportedModelError
from lmcourse.lite import METHODS, SEARCH, SMOOTH, AwqJob, auto_awq, calibrate, find_text
from lmcourse.models import load_decoder
from lmcourse.quant import QuantSettings, unpack_columns

LAYERS = 2


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """tiny-chat's first two layers, so that a test takes a second."""
    folder = tmp_path_factory.mktemp("models") / "two-layers"
    shutil.copytree(model_path("tiny-chat"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": LAYERS}))
    tensors = load_file(folder / "model.safetensors")
    kept = {
        name: tensor
        for name, tensor in tensors.items()
        if ".layers." not in name or int(name.split(".layers.")[1].split(".")[0]) < LAYERS
    }
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def job(**changes) -> AwqJob:
    return AwqJob(**{"calib_samples": 6, "calib_seqlen": 64, "batch_size": 4} | changes)


def load(folder):
    return load_decoder(folder, dtype=torch.float32, device=torch.device("cpu"))


def entries(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_output_is_the_published_layout(small, tmp_path):
    out = tmp_path / "out"
    result = auto_awq(small, out, job(), device="cpu")
    assert result.stored_bytes < result.source_bytes
    config = json.loads((out / "config.json").read_text())
    assert config["quantization_config"] == {
        "quant_method": "awq", "version": "gemm", "bits": 4, "group_size": 128, "zero_point": True
    }  # fmt: skip
    assert config["torch_dtype"] == "float16"
    before, after = load_file(small / "model.safetensors"), load_file(out / "model.safetensors")
    for name, tensor in before.items():
        if tensor.dim() == 1 or "layers" not in name:
            assert after[name].dtype == torch.float16
            continue
        out_features, in_features = tensor.shape
        stem = name.removesuffix("weight")
        want = {
            "qweight": ((in_features, out_features // 8), torch.int32),
            "qzeros": ((in_features // 128, out_features // 8), torch.int32),
            "scales": ((in_features // 128, out_features), torch.float16),
        }
        for leaf, (shape, dtype) in want.items():
            assert (tuple(after[stem + leaf].shape), after[stem + leaf].dtype) == (shape, dtype)
        assert name not in after
    assert {name for name in after if "layers" not in name} == {name for name in before if "layers" not in name}
    assert entries(tmp_path) == ["out"]
    assert "tokenizer.json" in entries(out)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_stored_weights_mean_the_old_ones(small, tmp_path, method):
    """Unpacked, and freed of the scales that the norms took over, they are near the weights of before."""
    auto_awq(small, tmp_path / "out", job(method=METHODS[method]), device="cpu")
    before, after = load_file(small / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    layer = "model.layers.1."
    q = unpack_columns(after[layer + "attention.wqkv.qweight"]).float()
    zeros = unpack_columns(after[layer + "attention.wqkv.qzeros"]).float().repeat_interleave(128, 0)
    weight = ((q - zeros) * after[layer + "attention.wqkv.scales"].float().repeat_interleave(128, 0)).t()
    norms = [tensors[layer + "attention_norm.weight"].float() for tensors in (before, after)]
    effective = weight * (norms[1] / norms[0])
    want = before[layer + "attention.wqkv.weight"].float()
    assert float((effective - want).norm() / want.norm()) < 0.2
    assert torch.equal(norms[0], norms[1]) == (method == "rtn")


def test_interrupted_it_goes_on_and_ends_in_the_same_bits(small, tmp_path):
    def stop(done, total):
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        auto_awq(small, tmp_path / "out", job(), device="cpu", watch=stop)
    assert entries(tmp_path) == [".out.unfinished"]
    seen = []
    result = auto_awq(
        small, tmp_path / "out", job(), device="cpu", watch=lambda done, total: seen.append((done, total))
    )
    assert result.resumed_layers == 1
    assert seen == [(1, LAYERS), (2, LAYERS)]
    auto_awq(small, tmp_path / "again", job(), device="cpu")
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "again"))
    assert all(torch.equal(one[name], two[name]) for name in two)
    assert entries(tmp_path) == ["again", "out"]


def test_other_settings_start_afresh(small, tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        auto_awq(small, tmp_path / "out", job(), device="cpu", watch=stop)
    assert auto_awq(small, tmp_path / "out", job(method=SEARCH), device="cpu").resumed_layers == 0


def test_published_set_out_of_reach_falls_back_loudly(small, tmp_path):
    with pytest.warns(UserWarning, match="CALIBRATION SET 'ptb' COULD NOT BE HAD"):
        auto_awq(small, tmp_path / "out", job(calib_dataset="ptb"), device="cpu")
    said = json.loads((tmp_path / "out" / "config.json").read_text())["lmcourse_calibration"]
    assert "ptb could not be had" in said["instead"]
    auto_awq(small, tmp_path / "same", job(), device="cpu")
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "same"))
    assert all(torch.equal(one[name], two[name]) for name in two)


def test_bundled_text_is_long_enough_for_the_lesson():
    from lmcourse.text.tokenizer import Tokenizer

    ids = Tokenizer.from_folder(model_path("tiny-chat")).encode(find_text("lmcourse").text, add_bos=False)
    assert len(ids) >= 131_072
    assert (model_path("tiny-chat").parent / "calibration.txt.xz").stat().st_size < 300_000


def test_own_text_file_is_used(small, tmp_path):
    (tmp_path / "text.txt").write_text("One sentence about nothing much. " * 200, encoding="utf-8")
    auto_awq(small, tmp_path / "out", job(calib_dataset=str(tmp_path / "text.txt")), device="cpu")
    said = json.loads((tmp_path / "out" / "config.json").read_text())["lmcourse_calibration"]
    assert said["dataset"].endswith("text.txt")
    assert "instead" not in said


def damaged(small, folder, name, value):
    shutil.copytree(small, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[name].fill_(value)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_activations_that_are_not_finite_are_named(small, tmp_path):
    folder = damaged(small, tmp_path / "model", "model.layers.1.ffn_norm.weight", 6e4)
    tensors = load_file(folder / "model.safetensors")
    for name in ("w1", "w3", "w2"):
        tensors[f"model.layers.1.feed_forward.{name}.weight"].fill_(6e4)
    save_file(
        {k: v.float() * 1e30 if "layers.1.feed" in k else v for k, v in tensors.items()}, folder / "model.safetensors"
    )
    with pytest.raises(CalibrationError, match="not finite") as caught:
        auto_awq(folder, tmp_path / "out", job(), device="cpu")
    assert "layer 1" in caught.value.where
    assert entries(tmp_path) == ["model"]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"settings": QuantSettings(4, 96)}, ConfigError, "does not divide"),
        ({"settings": QuantSettings(4, 512)}, ConfigError, "does not divide"),
        ({"calib_samples": 10**6}, CalibrationError, "too short"),
        ({"calib_seqlen": 4096}, ConfigError, "longer than the model's context"),
        ({"calib_dataset": "no-such-set"}, ConfigError, "no such calibration set"),
    ],
)
def test_requests_that_cannot_be_met_leave_nothing(small, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        auto_awq(small, tmp_path / "out", job(**changes), device="cpu")
    assert entries(tmp_path) == []


@pytest.mark.parametrize(("bits", "message"), [(3, "4-bit weights"), (8, "4-bit weights"), (1, "so many bits")])
def test_bits_that_are_not_supported_are_named(bits, message):
    with pytest.raises(ConfigError, match=message):
        job(settings=QuantSettings(bits, 128))


def test_model_quantised_already_is_named(small, tmp_path):
    auto_awq(small, tmp_path / "out", job(), device="cpu")
    with pytest.raises(UnsupportedModelError, match="quantised already"):
        auto_awq(tmp_path / "out", tmp_path / "again", job(), device="cpu")
    assert entries(tmp_path) == ["out"]


def test_output_that_exists_or_lies_in_the_model_is_refused(small, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(StorageError, match="holds something"):
        auto_awq(small, tmp_path / "out", job(), device="cpu")
    with pytest.raises(StorageError, match="in the model's folder"):
        auto_awq(small, small / "out", job(), device="cpu")
    assert entries(tmp_path / "out") == ["notes.txt"]


def test_calibrate_writes_statistics(small, tmp_path):
    calibrate(small, tmp_path / "stats", job(method=SMOOTH), device="cpu")
    inputs, kv = (load_file(tmp_path / "stats" / f"{name}_stats.safetensors") for name in ("inputs", "kv"))
    assert inputs["layers.1.mlp.down.mean_abs"].shape == (512,)
    assert (inputs["layers.0.attention.qkv.largest_abs"] >= inputs["layers.0.attention.qkv.mean_abs"]).all()
    assert kv["layers.1.keys.min"].shape == (2, 64)
    assert (kv["layers.1.values.min"] <= kv["layers.1.values.max"]).all()


def test_layers_run_as_the_engine_runs_them(small):
    """What calibration sees behind the last layer is what the decoder computes."""
    from lmcourse.kernels import LayerKV, RaggedBatch
    from lmcourse.lite import layers_with_inputs, open_source
    from lmcourse.lite.auto_awq import make_tokens

    weights = open_source(small, torch.device("cpu"))
    tokens = make_tokens(weights, find_text("lmcourse"), job(calib_samples=1, calib_seqlen=64))
    inputs = [noted for _, noted in layers_with_inputs(weights, tokens, job(calib_samples=1))]
    decoder, positions = load(small), torch.arange(64)
    kv = [LayerKV(torch.zeros(1, 2, 64, 64), torch.zeros(1, 2, 64, 64)) for _ in range(LAYERS)]
    batch = RaggedBatch(
        positions, positions, torch.zeros(1, 1, dtype=torch.int32), (0, 64), (64,), torch.full((64,), 64), 0
    )
    seen = []
    hook = decoder.layers[1].attention.output.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    decoder(tokens[0], batch, kv)
    hook.remove()
    torch.testing.assert_close(
        inputs[1].stats("attention.output").mean_abs, seen[0].abs().mean(0), rtol=1e-4, atol=1e-5
    )


def test_int8_head_is_stored_loaded_and_converted(small, tmp_path):
    """Logits stay within what rounding the head's rows to 8 bits can do."""
    from lmcourse.models import convert

    plain = auto_awq(small, tmp_path / "plain", job(), device="cpu")
    result = auto_awq(small, tmp_path / "out", job(head_bits=8), device="cpu")
    assert result.stored_bytes < plain.stored_bytes - 4096 * 250
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert (after["output.qweight"].dtype, after["output.qweight"].shape) == (torch.int8, (4096, 256))
    assert (after["output.row_scales"].dtype, after["output.row_scales"].shape) == (torch.float32, (4096, 1))
    assert "output.weight" not in after
    assert json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["head_bits"] == 8
    convert(tmp_path / "out", tmp_path / "own")
    hidden = torch.randn(5, 256)
    want, got, own = (load(tmp_path / name).logits(hidden) for name in ("plain", "out", "own"))
    assert torch.equal(got, own)
    head = load_file(small / "model.safetensors")["output.weight"].float()
    bound = head.abs().amax(1) / 254 * hidden.abs().sum(1, keepdim=True)
    assert ((got - want).abs() <= bound * 1.01 + 1e-3).all()
    assert not torch.equal(got, want)


def test_int8_head_needs_a_head_of_its_own(small, tmp_path):
    tied = tmp_path / "tied"
    shutil.copytree(small, tied)
    config = json.loads((tied / "config.json").read_text())
    (tied / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    with pytest.raises(ConfigError, match="cannot be stored in 8 bits"):
        auto_awq(tied, tmp_path / "out", job(head_bits=8), device="cpu")
    with pytest.raises(ConfigError, match="in so many bits"):
        job(head_bits=4)
    assert entries(tmp_path) == ["tied"]


def test_grid_of_fewer_bits_fits_the_same_words(small, tmp_path):
    auto_awq(small, tmp_path / "out", job(grid_bits=3), device="cpu")
    after = load_file(tmp_path / "out" / "model.safetensors")
    values = unpack_columns(after["model.layers.0.feed_forward.w1.qweight"])
    assert int(values.max()) == 7
    assert json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["bits"] == 4
    with pytest.raises(ConfigError, match="no such grid"):
        job(grid_bits=5)


def test_named_set_that_answers_is_used(small, tmp_path, monkeypatch):
    """Against a stand-in for the `datasets` library: what it gives is what the samples are cut from."""
    import sys
    import types
    import warnings

    asked = {}

    def load_dataset(path, config, **keywords):
        asked.update(path=path, config=config, **keywords)
        return ({"text": f"Line {n} of a set that somebody published, about rivers and hills.\n"} for n in range(900))

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.setattr("lmcourse.lite.calibration_text.is_offline", lambda: False)
    monkeypatch.setattr("lmcourse.lite.calibration_text.reach", lambda address: None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = find_text("wikitext2")
    assert (asked["path"], asked["config"], asked["split"]) == ("Salesforce/wikitext", "wikitext-2-raw-v1", "train")
    assert (text.asked, text.instead) == ("wikitext2", None)
    assert "Line 899 of a set" in text.text
    auto_awq(small, tmp_path / "out", job(calib_dataset="wikitext2"), device="cpu")
    said = json.loads((tmp_path / "out" / "config.json").read_text())["lmcourse_calibration"]
    assert (said["dataset"], "instead" in said) == ("wikitext2", False)


def test_another_text_gives_other_scales(small, tmp_path):
    """A file of the user's own really is what the model reads."""
    (tmp_path / "text.txt").write_text("zebra quagga okapi 17 + 4 = 21\n" * 400, encoding="utf-8")
    auto_awq(small, tmp_path / "own", job(calib_dataset=str(tmp_path / "text.txt"), method=SEARCH), device="cpu")
    auto_awq(small, tmp_path / "bundled", job(method=SEARCH), device="cpu")
    name = "model.layers.1.attention_norm.weight"
    one, two = (load_file(tmp_path / folder / "model.safetensors")[name] for folder in ("own", "bundled"))
    assert not torch.equal(one, two)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00 not text", b""])
def test_file_that_is_no_text_is_named(small, tmp_path, content):
    (tmp_path / "text.txt").write_bytes(content)
    with pytest.raises((ConfigError, CalibrationError)) as caught:
        auto_awq(small, tmp_path / "out", job(calib_dataset=str(tmp_path / "text.txt")), device="cpu")
    assert "text.txt" in str(caught.value)
    assert entries(tmp_path) == ["text.txt"]


def test_compensated_layers_lose_less_and_resume_in_the_same_bits(small, tmp_path):
    """With enough text for every matrix; what the layers give is judged on other text."""
    from lmcourse.lite.calibration_text import draw_samples
    from lmcourse.lite.layer_inputs import LayerInputs, LayerRunner
    from lmcourse.lite.visits import layers_with_inputs, open_source
    from lmcourse.text.tokenizer import Tokenizer

    def stop(done, total):
        if done == 1:
            raise KeyboardInterrupt

    enough = job(calib_samples=18, calib_seqlen=128, method=SEARCH)  # 2304 tokens for at most 512 columns
    auto_awq(small, tmp_path / "out", enough, device="cpu")
    with pytest.raises(KeyboardInterrupt):
        auto_awq(small, tmp_path / "again", enough, device="cpu", watch=stop)
    assert auto_awq(small, tmp_path / "again", enough, device="cpu").resumed_layers == 1
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "again"))
    assert all(torch.equal(one[name], two[name]) for name in two)
    plain = job(calib_samples=18, calib_seqlen=128, method=SEARCH.plain())
    auto_awq(small, tmp_path / "plain", plain, device="cpu")
    tokens = draw_samples(
        find_text("lmcourse"), Tokenizer.from_folder(small), samples=12, seqlen=64, seed=int(torch.randint(99, ()))
    )
    runner, given = LayerRunner(load(small).spec, num_samples=12, seqlen=64, batch_size=4), {}
    for name in ("source", "out", "plain"):
        decoder = load(small if name == "source" else tmp_path / name)
        given[name] = decoder.embedding(tokens.flatten())
        for layer in decoder.layers:
            runner.run(layer, given[name], inputs=LayerInputs())
    lost = {name: float((given[name] - given["source"]).norm()) for name in ("out", "plain")}
    assert lost["out"] < 0.8 * lost["plain"], lost  # of the 99 seeds, all tried: 0.51 to 0.62
    assert len(list(layers_with_inputs(open_source(small, torch.device("cpu")), tokens, plain))) == LAYERS
