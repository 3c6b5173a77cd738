"""What DeepSeek-VL's configs say, in either layout: published ones, what is not covered, and nonsense."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

sys.path.append(str(Path(__file__).parent))

from deepseek_vl_cases import KINDS, TinyDeepseekVl, make

from lmcourse.errors import CheckpointError, LmcourseError, UnsupportedModelError
from lmcourse.models import load_spec
from lmcourse.vision import load_encoder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tinies(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], TinyDeepseekVl]:
    """One of each kind, made when it is first asked for."""
    root, made = tmp_path_factory.mktemp("deepseek-vl"), {}
    print(f"weights of seed {torch.seed()}")

    def get(kind: str) -> TinyDeepseekVl:
        if kind not in made:
            made[kind] = make(kind, root / kind)
        return made[kind]

    return get


def test_published_files_load_without_a_word(tinies) -> None:
    """What the published program never reads is not worth a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_encoder(tinies("two-published").folder, dtype=torch.float32, device=CPU)


def test_head_is_the_files(tinies, tmp_path) -> None:
    """transformers' class ties the head unless told otherwise, published files have one: the file decides."""
    tiny = tinies("one-hf")
    folder = tmp_path / "tied"
    shutil.copytree(tiny.folder, folder)
    config = json.loads((folder / "config.json").read_text())
    del config["tie_word_embeddings"]
    (folder / "config.json").write_text(json.dumps(config))
    assert not load_spec(folder).tie_embeddings
    tensors = load_file(folder / "model.safetensors")
    save_file({n: t for n, t in tensors.items() if n != "lm_head.weight"}, folder / "model.safetensors")
    assert load_spec(folder).tie_embeddings


@pytest.mark.parametrize(("size", "hidden", "layers"), [("1.3b", 2048, 24), ("7b", 4096, 30)])
def test_published_configs_are_read(tmp_path, size, hidden, layers) -> None:
    """As deepseek-ai wrote them: a language model of which little is said, and its vocabulary's own ends."""
    language = {"max_position_embeddings": 16384, "model_type": "llama", "num_hidden_layers": layers}
    if size == "1.3b":
        language |= {"hidden_size": 2048, "intermediate_size": 5632, "num_attention_heads": 16}
    language |= {"torch_dtype": "float16", "vocab_size": 102400}
    config = {"architectures": ["MultiModalityCausalLM"], "language_config": language, "model_type": "multi_modality"}
    (tmp_path / "config.json").write_text(json.dumps(config | {"torch_dtype": "float16"}))
    spec = load_spec(tmp_path)
    assert (spec.family, spec.hidden, spec.num_layers, spec.max_context) == ("llama", hidden, layers, 16384)
    assert (spec.bos_id, spec.eos_ids, spec.dtype, spec.tie_embeddings) == (100000, (100001,), "float16", False)


@pytest.mark.parametrize("size", ["1.3b", "7b"])
def test_dummy_has_the_published_shape(size) -> None:
    from lmcourse.bundled.dummy_shapes import shape_folder
    from lmcourse.models import read_json
    from lmcourse.vision.deepseek_vl_folder import plan_deepseek_vl

    folder = shape_folder(f"deepseek-vl-{size}")
    spec = load_spec(folder)
    with torch.device("meta"):
        eyes, _ = plan_deepseek_vl(
            read_json(folder / "config.json"), folder, None, hidden=spec.hidden, vocab=spec.vocab
        )
    assert eyes.spec.num_tokens == 576
    low = sum(weight.numel() for weight in eyes.low.parameters())
    assert 303e6 < low < 304e6
    if size == "7b":
        assert eyes.spec.fitting.side == 1024
        assert 95e6 < sum(weight.numel() for weight in eyes.high.parameters()) < 97e6
    else:
        assert eyes.high is None


@pytest.mark.parametrize(
    ("kind", "path", "value", "said"),
    [
        ("two-published", ("vision_config", "params", "concat_type"), "sequence", "concat_type"),
        ("two-published", ("aligner_config", "params", "projector_type"), "identity", "projector"),
        ("one-published", ("vision_config", "params", "model_name"), "siglip_so400m_patch14_384", "so400m"),
        ("one-published", ("vision_config", "cls"), "ConvTower", "ConvTower"),
        ("one-published", ("vision_config", "params", "image_size"), 80, "image_size"),
        ("one-published", ("gen_head_config",), {}, "Janus"),
        ("two-hf", ("high_res_vision_config", "use_rel_pos"), False, "use_rel_pos"),
        ("two-hf", ("high_res_vision_config", "global_attn_indexes"), [9], "global_attn_indexes"),
        ("one-hf", ("vision_config", "hidden_act"), "silu", "silu"),
        ("one-hf", ("vision_config", "hidden_size"), "wide", "hidden_size"),
        ("one-hf", ("text_config", "model_type"), "mamba", "mamba"),
        ("two-hf", ("high_res_vision_config", "mlp_dim"), 1.5, "mlp_dim"),
        ("two-hf", ("vision_config", "layer_norm_eps"), "small", "layer_norm_eps"),
    ],
)
def test_config_that_is_not_covered_is_named(tinies, tmp_path, kind, path, value, said) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(tinies(kind).folder, folder)
    config = json.loads((folder / "config.json").read_text())
    inner = config
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises((CheckpointError, UnsupportedModelError), match=said):
        load_encoder(folder, dtype=torch.float32, device=CPU)


def places(table: dict, path: tuple = ()) -> list[tuple]:
    """Where a config has a value."""
    inner = [places(value, (*path, key)) for key, value in table.items() if isinstance(value, dict)]
    return [(*path, key) for key in table] + [place for found in inner for place in found]


@pytest.mark.parametrize("kind", KINDS)
def test_nonsense_in_any_place_is_read_or_one_clear_error(tinies, tmp_path, kind, seed) -> None:
    folder, draw = tmp_path / "changed", random.Random(seed)
    shutil.copytree(tinies(kind).folder, folder)
    values = [None, -1, 0, "x", [], {}, 1e30, True, 3.5, 10**6, [1, 2, 3], [0.5, float("nan"), 1], ["a", "b", "c"]]
    files = [name for name in ("config.json", "preprocessor_config.json") if (folder / name).exists()]
    whole = {name: json.loads((folder / name).read_text()) for name in files}
    for _ in range(40):
        name = draw.choice(files)
        changed = json.loads(json.dumps(whole[name]))
        path, inner = draw.choice(places(changed)), changed
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = draw.choice(values)
        (folder / name).write_text(json.dumps(changed))
        with warnings.catch_warnings(), contextlib.suppress(LmcourseError):
            warnings.simplefilter("ignore")
            load_encoder(folder, dtype=torch.float32, device=CPU)
        (folder / name).write_text(json.dumps(whole[name]))
