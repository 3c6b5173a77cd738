"""InternLM-XComposer 1 and 2 against float64 references: logits within 1e-4, however steps are cut."""

from __future__ import annotations

import importlib
import random
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

sys.path.extend([str(Path(__file__).parent), str(Path(__file__).parents[1] / "references")])

from picture_runs import NUM_NEW, open_engine, run_parts, stored_weights
from xcomposer_cases import TINIES, VOCAB, Tiny, xcomposer, xcomposer2

from lmcourse import TurbomindEngineConfig, pipeline
from lmcourse.bundled import dummy_path
from lmcourse.errors import CheckpointError, LmcourseError
from lmcourse.models import Checkpoint, read_json
from lmcourse.vision import load_encoder
from lmcourse.vision.llava import LlavaEyes
from lmcourse.vision.xcomposer import drawn_xcomposer
from lmcourse.vision.xcomposer2 import read_xcomposer2

CPU = torch.device("cpu")


@pytest.fixture(params=TINIES)
def tiny(request, seed) -> Tiny:
    return TINIES[request.param]()


def expect(tiny: Tiny, parts: list, answer: tuple[list[int], Tensor]) -> None:
    """Every log probability is within 1e-4 of the reference's: of the prompt's last token, and of each new one."""
    tokens, found = answer
    reference = importlib.import_module(f"reference_{tiny.truth}")
    logits = reference.logits(tiny.config, tiny.tensors, [*parts, *tokens[:-1]], **tiny.shape)[-NUM_NEW:]
    torch.testing.assert_close(found.double(), logits.log_softmax(-1), rtol=0, atol=1e-4)


def random_ids(count: int) -> list[int]:
    return torch.randint(3, VOCAB, (count,)).tolist()


def mixed_prompts(draw) -> list[list]:
    """No picture, one in front, one within, two in a row, the same one again, one at the end."""
    one, other, long = draw(40, 40), draw(70, 33), draw(300, 9)
    return [
        random_ids(11),
        [one, *random_ids(6)],
        [*random_ids(5), other, *random_ids(9)],
        [*random_ids(2), one, long, *random_ids(4), one, 7],
        [*random_ids(3), other],
    ]


def test_features_are_the_references(tiny, draw, tmp_path) -> None:
    encoder = load_encoder(tiny.write(tmp_path / "model"), dtype=torch.float32, device=CPU)
    pictures = [draw(40, 40), draw(21, 21), draw(1, 1), draw(900, 12)]
    reference = importlib.import_module(f"reference_{tiny.truth}")
    ready = [encoder.prepare(picture) for picture in pictures]
    assert [picture.num_tokens for picture in ready] == [tiny.num_tokens] * 4
    for picture, found in zip(pictures, encoder.encode(ready), strict=True):
        wanted = reference.features(tiny.tensors, picture, **tiny.shape)
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=2e-5)


def test_every_tensor_of_the_eyes_is_used(tiny, tmp_path, monkeypatch) -> None:
    """But for the norm that only CLIP's own head would want."""
    read, whole = set(), Checkpoint.read
    monkeypatch.setattr(Checkpoint, "read", lambda self, name: read.add(name) or whole(self, name))
    encoder = load_encoder(tiny.write(tmp_path / "model"), dtype=torch.float32, device=CPU)
    language = ("internlm_model.", "model.", "output.")
    unread = {name for name in tiny.tensors if not name.startswith(language)} - read
    assert all("post_layernorm" in name for name in unread)
    assert not any(weight.is_meta or weight.isnan().any() for weight in encoder.eyes.parameters())


def test_logits_are_the_references(tiny, draw, tmp_path) -> None:
    """One after the other, and all in one batch; warnings are errors, so the language model uses every tensor."""
    prompts = mixed_prompts(draw)
    with open_engine(tiny.write(tmp_path / "model")) as engine:
        for prompt in prompts:
            expect(tiny, prompt, run_parts(engine, [prompt])[0])
        for prompt, answer in zip(prompts, run_parts(engine, prompts), strict=True):
            expect(tiny, prompt, answer)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_prefill_token_num": 5},
        {"max_prefill_token_num": 1},
        {"cache_max_entry_count": 7, "session_len": 60},
        {"enable_prefix_caching": True, "cache_block_seq_len": 4},
    ],
)
def test_chunks_preemption_and_prefixes_change_nothing(tiny, draw, tmp_path, settings) -> None:
    most = 3 if settings.get("max_prefill_token_num") == 1 else 5
    prompts, caches = mixed_prompts(draw)[:most], bool(settings.get("enable_prefix_caching"))
    with open_engine(tiny.write(tmp_path / "model"), **settings) as engine:
        for _ in range(1 + caches):
            for prompt, answer in zip(prompts, run_parts(engine, prompts), strict=True):
                expect(tiny, prompt, answer)
        hits = engine.stats().num_hit_tokens
    assert (hits > 0) == caches


def test_a_token_without_a_picture_takes_nothing_from_its_neighbours_low_rank_part(draw, tmp_path, seed) -> None:
    """Version 2 without pictures is InternLM2; the other half of the batch has pictures."""
    tiny, plain = xcomposer2(), random_ids(13)
    with open_engine(tiny.write(tmp_path / "model")) as engine:
        alone = run_parts(engine, [plain])[0][1]
        beside = run_parts(engine, [[draw(30, 30), 5], plain, [4, draw(20, 50), 6]])[1][1]
    torch.testing.assert_close(beside, alone, rtol=0, atol=2e-5)


def test_positions_of_another_grid_are_stretched(draw, tmp_path, seed) -> None:
    tiny = xcomposer2(stored_grid=2)
    with open_engine(tiny.write(tmp_path / "model")) as engine:
        prompt = [3, draw(50, 40), 9]
        expect(tiny, prompt, run_parts(engine, [prompt])[0])


def test_scales_folded_into_a_layer_change_no_logits(draw, tmp_path, seed) -> None:
    """What AWQ does before it rounds: each scale is taken out again, for pictures' tokens too."""
    from lmcourse.lite.layer_quantise import LayerJob, _apply_scale
    from lmcourse.lite.methods import SMOOTH
    from lmcourse.models import open_weights
    from lmcourse.quant import QuantSettings

    tiny, prompt = xcomposer2(), [3, 5, draw(30, 44), 8, 9]
    weights = open_weights(tiny.write(tmp_path / "model"), dtype=torch.float32, device=CPU)[0]
    job = LayerJob(weights.spec, weights.rules, 1, SMOOTH, QuantSettings(group_size=8))
    scaled = dict(tiny.tensors)
    for module in ("attention.qkv", "mlp.gate_up", "mlp.down"):
        width = weights.spec.intermediate if module == "mlp.down" else weights.spec.hidden
        _apply_scale(job, module, scaled, torch.rand(width) + 0.5)
    assert sum(not torch.equal(scaled[name], tiny.tensors[name]) for name in scaled) == 11
    reference = importlib.import_module("reference_xcomposer2")
    found, wanted = (reference.logits(tiny.config, tensors, prompt, **tiny.shape) for tensors in (scaled, tiny.tensors))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_language_part_in_four_bits(tiny, draw, tmp_path) -> None:
    """The base, LoRA in it, is packed and speaks as its four bits mean; towers and factors for pictures stay."""
    from lmcourse.lite import AwqJob, auto_awq
    from lmcourse.quant import QuantSettings

    job = AwqJob(calib_samples=4, calib_seqlen=32, settings=QuantSettings(group_size=8))
    auto_awq(tiny.write(tmp_path / "model"), tmp_path / "small", job, device="cpu")
    stored = load_file(tmp_path / "small" / "model.safetensors")
    names = stored.keys()
    assert not any("lora_A" in name and "Plora" not in name for name in names)
    untouched = {name for name in tiny.tensors if name.startswith(("vit.", "visual_", "Qformer", "vision_", "flag"))}
    assert untouched <= names
    assert all(torch.equal(tiny.tensors[name].half(), stored[name]) for name in untouched)
    assert {name for name in tiny.tensors if "Plora" in name} <= names
    prompt = [*random_ids(4), draw(40, 25), *random_ids(5)]
    with open_engine(tmp_path / "small", dtype="float32") as engine:
        assert engine.weight_format == "awq"
        expect(tiny._replace(tensors=stored_weights(tmp_path / "small")), prompt, run_parts(engine, [prompt])[0])


def test_pipeline_puts_the_picture_where_the_published_prompts_have_it(tiny, draw, tmp_path) -> None:
    texts = {
        "xcomposer": (" <|User|>: ", "what?<TOKENS_UNUSED_0> <|Bot|>: "),
        "xcomposer2": (
            "[UNUSED_TOKEN_146]user\n", "what?[UNUSED_TOKEN_145]\n[UNUSED_TOKEN_146]assistant\n",
        ),
    }  # fmt: skip
    before, behind = texts[tiny.truth]
    with pipeline(tiny.write(tmp_path / "model"), backend_config=TurbomindEngineConfig(session_len=300)) as pipe:
        ids = pipe.encode(("what?", draw(40, 40)))
        head = pipe.tokenizer.encode(before, add_bos=True)
        assert ids[: len(head)] == head
        assert ids.pieces[0].start == len(head)
        assert pipe.tokenizer.decode(ids[ids.pieces[0].stop :]) == behind
        answer = pipe(("what?", draw(40, 40)), max_new_tokens=4, ignore_eos=True)
        assert (len(answer.token_ids), pipe.template.name) == (4, tiny.truth)


def change(tiny: Tiny, tensors: dict[str, Tensor] | None = None, **config: object) -> Tiny:
    """Another config, or tensors; None takes one away."""
    new = tiny.tensors | (tensors or {})
    kept = {name: tensor for name, tensor in new.items() if tensor is not None}
    return tiny._replace(config=tiny.config | config, tensors=kept)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: change(xcomposer2(), {"plora_glb_GN": torch.ones(1, 1, 40)}), "4KHD or 2.5"),
        (lambda: change(xcomposer2(), img_size=22), "sizes that divide"),
        (lambda: change(xcomposer2(), {"vision_proj.2.weight": None}), "vision_proj.2.weight"),
        (lambda: change(xcomposer2(), {"model.layers.1.feed_forward.w3.Plora_A.weight": None}), "w3.Plora_A"),
        (lambda: change(xcomposer(), {"ln_vision.bias": None}), "ln_vision.bias"),
        (lambda: change(xcomposer(), {"query_tokens": None}), "query_tokens"),
        (lambda: change(xcomposer(), {"visual_encoder.cls_token": torch.ones(1, 1, 7)}), "cls_token"),
        (lambda: change(xcomposer(), internlm_lora={"lora_alpha": -1}), "lora_alpha"),
        (lambda: change(xcomposer(), internlm_lora=None, lora_cfg=None), "does not say how much"),
        (
            lambda: change(xcomposer(), {"internlm_model.model.layers.0.mlp.up_proj.lora_B.weight": None}),
            r"up_proj does not fit",
        ),
    ],
)
def test_what_cannot_be_is_one_clear_error(make, message, tmp_path, seed) -> None:
    with pytest.raises(LmcourseError, match=message) as caught:
        open_engine(make().write(tmp_path / "model"))
    assert caught.value.next_step


def test_pickled_weights_are_refused_with_the_way_out(tmp_path, seed) -> None:
    """As both are published."""
    folder = xcomposer().write(tmp_path / "model")
    for file in folder.glob("model*"):
        file.rename(folder / f"pytorch_{file.name.replace('safetensors', 'bin', 1)}")
    with pytest.raises(CheckpointError, match="weights_only"):
        open_engine(folder)


@pytest.mark.parametrize(
    ("name", "size", "tokens"),
    [("internlm-xcomposer-7b", 986_000_000, 66), ("internlm-xcomposer2-7b", 303_000_000, 256),
     ("internlm-xcomposer2-vl-7b", 304_000_000, 1225)],
)  # fmt: skip
def test_published_shapes_have_the_published_towers(name, size, tokens) -> None:
    """EVA-CLIP-g's 39 layers and CLIP-L, as their papers count them; nothing is drawn."""
    config = read_json(dummy_path(f"dummy:{name}") / "config.json")
    with torch.device("meta"):
        if name == "internlm-xcomposer-7b":
            eyes = drawn_xcomposer(config, 4096)
            assert eyes.spec.num_tokens == tokens
        else:
            eyes = LlavaEyes(read_xcomposer2(config, {}, {"hidden": 4096, "vocab": 92544}))
            assert eyes.spec.tower.patches_per_tile == tokens
    count = sum(weight.numel() for weight in eyes.tower.parameters())
    assert count == pytest.approx(size, rel=0.01)


EVEN = {  # widths that kernels have tiles for
    "1": {"hidden": 192, "inner": 320, "heads": 3},
    "2": {"hidden": 192, "inner": 320, "heads": 6, "kv_heads": 3},
}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("dtype", "share"), [("float32", 2e-4), ("bfloat16", 0.05)])
@pytest.mark.parametrize("kind", EVEN)
def test_cuda_is_as_near_as_its_dtype_can_be(kind, dtype, share, draw, tmp_path, seed) -> None:
    """Kernels, graphs, and pictures in one batch with text; share of the largest logit, which layers round anew."""
    tiny = TINIES[kind](**EVEN[kind])
    folder, prompts = tiny.write(tmp_path / "model"), mixed_prompts(draw)
    reference = importlib.import_module(f"reference_{tiny.truth}")
    with open_engine(folder, dtype=dtype, max_prefill_token_num=64) as engine:
        answers = run_parts(engine, prompts)
    for parts, (tokens, found) in zip(prompts, answers, strict=True):
        logits = reference.logits(tiny.config, tiny.tensors, [*parts, *tokens[:-1]], **tiny.shape)[-NUM_NEW:]
        wanted = logits.log_softmax(-1)
        assert float((found.double() - wanted).abs().max()) < share * float(logits.abs().max())


def random_prompt(chance: random.Random, shown: list) -> list:
    """Words, and up to three pictures among them."""
    parts = random_ids(chance.randint(1, 12))
    for _ in range(chance.randint(0, 3)):
        parts += [chance.choice(shown), *random_ids(chance.randint(1, 12))]
    return parts


@pytest.mark.soak
@pytest.mark.parametrize("kind", TINIES)
def test_random_workloads_say_what_each_request_says_alone(kind, draw, tmp_path, seed) -> None:
    """Texts and pictures, few of each and often the same; any chunks, few blocks, with and without found prefixes."""
    chance, tiny = random.Random(seed), TINIES[kind]()
    folder = tiny.write(tmp_path / "model")
    shown = [draw(40, 30), draw(25, 60), draw(33, 33)]
    with open_engine(folder) as alone:
        for _ in range(6):
            prompts = [random_prompt(chance, shown) for _ in range(chance.randint(2, 7))]
            settings = {
                "max_prefill_token_num": chance.choice([3, 8, 17, 64]), "max_batch_size": chance.randint(1, 6),
                "cache_max_entry_count": chance.choice([9, 12, 40]), "cache_block_seq_len": 16, "session_len": 130,
                "enable_prefix_caching": chance.random() < 0.5,
            }  # fmt: skip
            with open_engine(folder, **settings) as engine:
                found = run_parts(engine, [*prompts, *prompts[:2]])
            for parts, (_, report) in zip([*prompts, *prompts[:2]], found, strict=True):
                torch.testing.assert_close(report, run_parts(alone, [parts])[0][1], rtol=0, atol=1e-4)
