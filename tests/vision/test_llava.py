"""LLaVA against transformers: features, logits through the engine, several pictures, any cutting of a prompt."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

sys.path.append(str(Path(__file__).parent))

from picture_runs import assert_best, assert_same_answers, open_engine, plain_copy, run

from lmcourse import TurbomindEngineConfig, pipeline
from lmcourse.engine import Engine
from lmcourse.errors import CheckpointError, UnsupportedModelError
from lmcourse.lite import AwqJob, auto_awq
from lmcourse.models import convert, load_spec
from lmcourse.models.language_part import language_config
from lmcourse.quant import QuantSettings
from lmcourse.text.chat_template import find_template
from lmcourse.text.pictures import PicturedIds, Piece
from lmcourse.vision import load_encoder
from lmcourse.vision.llava_config import read_llava
from lmcourse.vision.tiles import cut

SIZES = ((1, 1), (3000, 20), (1920, 1080), (90, 160), (28, 28))
KINDS = ("1.5-hf", "1.5-liuhaotian", "1.6-hf", "1.6-liuhaotian")
VOCAB, IMAGE_ID = 300, 299


def open_llava(folder: Path, **settings):
    return open_engine(folder, **{"session_len": 500} | settings)


def make_prompt(engine: Engine, *parts) -> PicturedIds:
    """Lists of ids and pictures → a prompt."""
    ids, pieces = [], []
    for part in parts:
        if isinstance(part, list):
            ids += part
        else:
            picture = engine.encoder.prepare(part)
            pieces.append(Piece(len(ids), picture))
            ids += [0] * picture.num_tokens
    return PicturedIds(ids, pieces)


def expect(llava, prompt: list[int], pictures: list, answer: tuple[list[int], Tensor]) -> None:
    """Every log probability is within 1e-4 of transformers'."""
    tokens, found = answer
    assert len(tokens) == 3
    count = tokens.index(IMAGE_ID) if IMAGE_ID in tokens else len(tokens)  # transformers would look for its picture
    marked = list(prompt)
    for piece in prompt.pieces:
        marked[piece.start : piece.stop] = [IMAGE_ID] * piece.picture.num_tokens
    logits = llava.logits([*marked, *tokens[:count]], pictures)[len(prompt) - 1 :]
    torch.testing.assert_close(found[: count + 1], logits[:3].log_softmax(-1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_those_of_transformers(llavas, draw, kind) -> None:
    llava = llavas[kind]
    encoder = load_encoder(llava.folder, dtype=torch.float32, device=torch.device("cpu"))
    pictures = [draw(*size) for size in SIZES]
    ready = [encoder.prepare(picture) for picture in pictures]
    for picture, one, features in zip(pictures, ready, encoder.encode(ready), strict=True):
        inputs = dict(llava.processor([picture], return_tensors="pt"))
        shape = (-1, 3, 28, 28)
        normalised = encoder.eyes.normalise(torch.from_numpy(one.tiles.pixels))
        torch.testing.assert_close(normalised, inputs["pixel_values"].reshape(shape), rtol=0, atol=1e-6)
        with torch.no_grad():
            wanted = llava.model.model.get_image_features(**inputs).pooler_output[0]
        torch.testing.assert_close(features, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_transformers(llavas, draw, kind) -> None:
    """Odd sizes, several pictures in a prompt, texts beside them in the batch."""
    llava = llavas[kind]
    one, *others = (draw(*size) for size in SIZES)
    with open_llava(llava.folder) as engine:
        shown = [[one], others[:1], others[1:2], others[2:4], [], [others[3], one, others[3]]]
        prompts = [make_prompt(engine, [1, 40 + n], *pictures, [50, 60 + n]) for n, pictures in enumerate(shown)]
        for pictures, prompt, answer in zip(shown, prompts, run(engine, prompts), strict=True):
            expect(llava, prompt, pictures, answer)


@pytest.mark.parametrize("settings", [{"max_prefill_token_num": 7}, {"cache_max_entry_count": 9, "session_len": 120}])
def test_chunks_and_preemption_change_nothing(llavas, draw, settings) -> None:
    llava = llavas["1.6-hf"]
    pictures = [draw(60, 40), draw(30, 90), draw(60, 40)]
    with open_llava(llava.folder) as engine:
        wanted = run(engine, [make_prompt(engine, [1, 5 + n], p, [9, 8, 7]) for n, p in enumerate(pictures)])
    with open_llava(llava.folder, **settings) as engine:
        found = run(engine, [make_prompt(engine, [1, 5 + n], p, [9, 8, 7]) for n, p in enumerate(pictures)])
    assert_same_answers(found, wanted)


def test_prefix_cache_tells_pictures_apart(llavas, draw) -> None:
    llava = llavas["1.5-hf"]
    one, other = draw(40, 40), draw(40, 40)
    with open_llava(llava.folder, enable_prefix_caching=True) as engine:
        for picture in (one, other, one):
            prompt = make_prompt(engine, [1] * 4, picture, list(range(20, 50)))
            expect(llava, prompt, [picture], run(engine, [prompt])[0])
        assert engine.stats().num_hit_tokens == 48  # the third found the first's full blocks


def test_features_are_kept_for_the_next_turn(llavas, draw) -> None:
    picture = draw(50, 70)
    with open_llava(llavas["1.6-hf"].folder) as engine:
        run(engine, [make_prompt(engine, [1], picture, [5])])
        run(engine, [make_prompt(engine, [1], picture, [5, 6, 7]), make_prompt(engine, [1], picture, [9])])
        assert engine._runner.features.num_encoded == 1


def test_pipeline_takes_text_and_picture(llavas, draw) -> None:
    llava = llavas["1.5-hf"]
    picture = draw(64, 48)
    with pipeline(llava.folder, backend_config=TurbomindEngineConfig(session_len=500)) as pipe:
        response = pipe(("describe this image", picture), max_new_tokens=4, ignore_eos=True)
        assert pipe.template.name == "vicuna"
        ids = pipe.encode(("describe this image", picture))
        head = pipe.tokenizer.encode("USER: ", add_bos=True)
        assert ids[: len(head)] == head
        assert ids[len(head) : len(head) + 16] == [299] * 16
        assert pipe.tokenizer.decode(ids[len(head) + 16 :]) == "\ndescribe this image ASSISTANT:"
        assert_best(response.token_ids[0], llava.logits(ids, [picture])[-1])
        assert response.input_token_len == len(ids)


@pytest.mark.parametrize("kind", ["1.6-hf", "1.5-liuhaotian"])
def test_language_part_in_four_bits_keeps_its_eyes(llavas, draw, tmp_path, kind) -> None:
    """What sees is kept, in half precision as AWQ stores it; what speaks, speaks as the weights of its four bits."""
    llava, picture = llavas[kind], draw(70, 50)
    job = AwqJob(calib_samples=2, calib_seqlen=32, settings=QuantSettings(group_size=16))
    result = auto_awq(llava.folder, tmp_path / "small", job, device="cpu")
    assert result.stored_bytes < result.source_bytes
    after, before = (load_file(folder / "model.safetensors") for folder in (tmp_path / "small", llava.folder))
    matrices = {name for name in before if "_proj.weight" in name and "vision" not in name}
    assert before.keys() - after.keys() == matrices
    assert {name.replace("weight", "qweight") for name in matrices} <= after.keys()
    eyes = [name for name in before if "vision" in name or "projector" in name]
    assert eyes
    assert all(torch.equal(before[name].half(), after[name]) for name in eyes)
    if kind == "1.5-liuhaotian":
        (tmp_path / "small" / "tower").symlink_to(llava.folder / "tower")
    answers = []
    for folder, form in ((tmp_path / "small", "awq"), (plain_copy(tmp_path / "small", tmp_path / "plain"), "plain")):
        with open_llava(folder, dtype="float32") as engine:
            assert engine.weight_format == form
            answers.append(run(engine, [make_prompt(engine, [1, 7], picture, [9, 8])]))
    assert_same_answers(*answers)


def test_convert_refuses_to_blind_a_model(llavas, tmp_path) -> None:
    with pytest.raises(UnsupportedModelError, match="not converted"):
        convert(llavas["1.5-hf"].folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("inner", "name"), [("llama", "vicuna"), ("mistral", "mistral"), ("qwen2", "qwen")])
def test_template_is_the_language_models(tmp_path, inner, name) -> None:
    config = {"architectures": ["LlavaNextForConditionalGeneration"], "text_config": {"model_type": inner}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert find_template(None, tmp_path).name == name


def test_published_config_is_read(tmp_path) -> None:
    """As v1.6-vicuna's: the tower is named and its shape is not there; keys of training lie about."""
    config = {
        "architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava", "hidden_size": 4096, "vocab_size": 32000,
        "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-05, "rope_scaling": None, "hidden_act": "silu",
        "torch_dtype": "bfloat16", "tokenizer_model_max_length": 4096, "freeze_mm_mlp_adapter": False,
        "image_aspect_ratio": "anyres", "mm_patch_merge_type": "spatial_unpad", "mm_projector_lr": None,
        "mm_projector_type": "mlp2x_gelu", "mm_use_im_patch_token": False, "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2, "mm_vision_tower": "openai/clip-vit-large-patch14-336", "use_mm_proj": True,
        "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    language = load_spec(tmp_path)
    assert (language.family, language.hidden, language.dtype) == ("llama", 4096, "bfloat16")
    spec = read_llava(config, tmp_path, {}, hidden=language.hidden, vocab=language.vocab)
    assert (spec.wanted, spec.num_maps, spec.placeholder_id) == ((23,), 2, 0)
    tiles = cut(Image.new("RGB", (1344, 672)), spec.cutting)
    assert (tiles.pixels.shape, len(tiles.order)) == ((3, 3, 336, 336), 576 + 24 * 49)


def test_partial_text_config_means_the_classes_defaults() -> None:
    """As llava-1.5-7b-hf's, where most of Llama's shape is not written down."""
    text = {"model_type": "llama", "max_position_embeddings": 4096, "rms_norm_eps": 1e-05, "vocab_size": 32064}
    config = {"architectures": ["LlavaForConditionalGeneration"], "torch_dtype": "float16", "text_config": text}
    found = language_config(config)
    assert (found["hidden_size"], found["num_hidden_layers"], found["intermediate_size"]) == (4096, 32, 11008)
    assert (found["vocab_size"], found["torch_dtype"], found["architectures"]) == (
        32064,
        "float16",
        ["LlamaForCausalLM"],
    )


@pytest.mark.parametrize(
    "change",
    [
        {"mm_projector_type": "qformer"},
        {"mm_vision_select_layer": 99},
        {"mm_vision_select_feature": "all"},
        {"image_grid_pinpoints": [[30, 56]]},
        {"mm_patch_merge_type": "maxpool"},
    ],
)
def test_config_that_is_not_covered_is_named(llavas, tmp_path, change) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(llavas["1.6-liuhaotian"].folder, folder)
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=f"{next(iter(change))}|projector"):
        load_encoder(folder, dtype=torch.float32, device=torch.device("cpu"))


def test_missing_tower_is_named(llavas, tmp_path) -> None:
    folder = tmp_path / "blind"
    shutil.copytree(llavas["1.5-liuhaotian"].folder, folder)
    shutil.rmtree(folder / "tower")
    tensors = load_file(folder / "model.safetensors")
    save_file({name: t for name, t in tensors.items() if "vision_tower" not in name}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="no vision tower"):
        load_encoder(folder, dtype=torch.float32, device=torch.device("cpu"))
