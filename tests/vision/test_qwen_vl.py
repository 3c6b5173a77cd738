"""Qwen-VL against a float64 reference: logits within 1e-4, however steps are cut."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

sys.path.extend([str(Path(__file__).parent), str(Path(__file__).parents[1] / "references")])

import reference_qwen_vl
from picture_runs import NUM_NEW, open_engine, run_parts, stored_weights
from qwen_vl_cases import VISUAL, qwen_vl, tiktoken_file, with_marks
from test_xcomposer import change, mixed_prompts, random_ids
from xcomposer_cases import Tiny

from lmcourse import TurbomindEngineConfig, pipeline
from lmcourse.errors import LmcourseError
from lmcourse.vision import load_encoder

CPU = torch.device("cpu")


SHAPES = {"stretched": {}, "as stored": {"grid": 3}, "one width": {"width": 384, "visual_heads": 3, "queries": 4}}


@pytest.fixture(params=SHAPES)
def tiny(request, seed) -> Tiny:
    """Positions of another grid than the picture's; of its own; and a tower as wide as the language model."""
    return qwen_vl(**SHAPES[request.param])


def expect(tiny: Tiny, parts: list, answer: tuple[list[int], Tensor]) -> None:
    """Every log probability is within 1e-4 of the reference's: of the prompt's last token, and of each new one."""
    tokens, found = answer
    logits = reference_qwen_vl.logits(tiny.config, tiny.tensors, [*parts, *tokens[:-1]])[-NUM_NEW:]
    torch.testing.assert_close(found.double(), logits.log_softmax(-1), rtol=0, atol=1e-4)


def test_features_are_the_references(tiny, draw, tmp_path) -> None:
    encoder = load_encoder(tiny.write(tmp_path / "model"), dtype=torch.float32, device=CPU)
    pictures = [draw(40, 40), draw(28, 28), draw(1, 1), draw(900, 12)]
    ready = [encoder.prepare(picture) for picture in pictures]
    assert [picture.num_tokens for picture in ready] == [tiny.num_tokens] * 4
    for picture, found in zip(pictures, encoder.encode(ready), strict=True):
        wanted = reference_qwen_vl.features(tiny.config, tiny.tensors, picture)
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=2e-5)


def test_every_tensor_of_the_eyes_is_read(draw, tmp_path, seed) -> None:
    """A change of any changes the features; the language model's are counted where it is loaded."""
    tiny, picture = qwen_vl(), draw(30, 50)

    def look(tensors: dict[str, Tensor], name: str) -> Tensor:
        folder = tiny._replace(tensors=tensors).write(tmp_path / name)
        encoder = load_encoder(folder, dtype=torch.float32, device=CPU)
        return encoder.encode([encoder.prepare(picture)])[0]

    plain = look(tiny.tensors, "plain")
    names = [name for name in tiny.tensors if name.startswith(VISUAL)]
    for name in names:
        if "resblocks.1" not in name:
            changed = look(tiny.tensors | {name: torch.randn_like(tiny.tensors[name])}, name)
            assert not torch.allclose(changed, plain, atol=1e-5), name


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
def test_chunks_preemption_and_prefixes_change_nothing(draw, tmp_path, seed, settings) -> None:
    tiny, prompts, caches = qwen_vl(), mixed_prompts(draw), bool(settings.get("enable_prefix_caching"))
    with open_engine(tiny.write(tmp_path / "model"), **settings) as engine:
        for _ in range(1 + caches):
            for prompt, answer in zip(prompts, run_parts(engine, prompts), strict=True):
                expect(tiny, prompt, answer)
        hits = engine.stats().num_hit_tokens
    assert (hits > 0) == caches


@pytest.mark.parametrize("settings", [{}, {"max_prefill_token_num": 5}])
def test_prompts_beyond_the_training_length_see_too(draw, tmp_path, seed, settings) -> None:
    """The rotary base grows with the whole prompt, pictures included, and queries with their position."""
    tiny = change(qwen_vl(), seq_length=16, max_position_embeddings=64)
    prompt = [*random_ids(3), draw(30, 40), *random_ids(9), draw(20, 20), *random_ids(14)]
    with open_engine(tiny.write(tmp_path / "model"), **settings) as engine:
        _, found = run_parts(engine, [prompt])[0]
    wanted = reference_qwen_vl.logits(tiny.config, tiny.tensors, prompt)[-1].log_softmax(-1)
    torch.testing.assert_close(found[0].double(), wanted, rtol=0, atol=1e-4)


def test_prompts_are_the_published_ones(draw, tmp_path, seed) -> None:
    """With qwen.tiktoken: marks are one token each, pictures are counted through the conversation."""
    tiny = with_marks(qwen_vl())
    folder = tiny.write(tmp_path / "model")
    (folder / "byte_tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "QWenTokenizer"}')
    (folder / "qwen.tiktoken").write_text(tiktoken_file())
    one, other, third = draw(40, 40), draw(9, 80), draw(5, 5)
    conversation = [
        {"role": "user", "content": [
            {"type": "text", "text": "which?"}, {"type": "image_url", "image_url": {"url": one}},
            {"type": "image", "image": other},
        ]},
        {"role": "assistant", "content": "the first"},
        {"role": "user", "content": [{"type": "image", "image": third}, {"type": "text", "text": "and now?"}]},
    ]  # fmt: skip
    pads = "<imgpad>" * 9
    wanted = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        f"Picture 1: <img>{pads}</img>\nPicture 2: <img>{pads}</img>\nwhich?<|im_end|>\n"
        f"<|im_start|>assistant\nthe first<|im_end|>\n<|im_start|>user\n"
        f"Picture 3: <img>{pads}</img>\nand now?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    with pipeline(folder, backend_config=TurbomindEngineConfig(session_len=600)) as pipe:
        ids, start = pipe.encode(conversation), tiny.config["visual"]["image_start_id"]
        assert pipe.tokenizer.decode(ids, skip_special_tokens=False) == wanted
        assert [ids[piece.start - 1] for piece in ids.pieces] == [start] * 3
        assert [ids[piece.stop] for piece in ids.pieces] == [start + 1] * 3
        answer = pipe(("what?", [one, other]), max_new_tokens=4, ignore_eos=True)
        assert (len(answer.token_ids), pipe.template.name) == (4, "qwen-vl")
        spoken = "<ref>cat</ref><box>(1,2),(3,4)</box>"
        said = pipe.tokenizer.encode(spoken + "<|im_end|>", add_bos=False)
        assert pipe.tokenizer.decode(said) == spoken


def test_base_models_prompt_has_the_picture_without_a_conversation(draw, tmp_path, seed) -> None:
    from lmcourse import ChatTemplateConfig

    folder = qwen_vl().write(tmp_path / "model")
    plain = ChatTemplateConfig(capability="completion")
    config = TurbomindEngineConfig(session_len=300)
    with pipeline(folder, backend_config=config, chat_template_config=plain) as pipe:
        ids = pipe.encode(("caption:", draw(40, 40)))
        piece = ids.pieces[0]
        assert pipe.tokenizer.decode(ids[: piece.start]) == "Picture 1: <img>"
        assert pipe.tokenizer.decode(ids[piece.stop :]) == "</img>\ncaption:"


def change_visual(**visual: object) -> Tiny:
    tiny = qwen_vl()
    return change(tiny, visual=tiny.config["visual"] | visual)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: change_visual(image_size=29), "visual.image_size"),
        (lambda: change_visual(heads=7), "visual.heads"),
        (lambda: change_visual(n_queries=8), "visual.n_queries"),
        (lambda: change_visual(output_dim=256), "visual.output_dim"),
        (lambda: change_visual(width=None), "visual.width"),
        (lambda: change_visual(layers=3), "resblocks.2.ln_1.weight"),
        (lambda: change_visual(mlp_ratio=3.5), "c_fc.weight has the wrong shape"),
        (lambda: change(qwen_vl(), visual=[]), "visual"),
        (lambda: change(qwen_vl(), {f"{VISUAL}.proj": None}), "visual.proj"),
        (lambda: change(qwen_vl(), {f"{VISUAL}.attn_pool.pos_embed": None}), "attn_pool.pos_embed"),
        (lambda: change(qwen_vl(), {f"{VISUAL}.positional_embedding": torch.ones(8, 60)}), "positional_embedding"),
        (lambda: change(qwen_vl(), {f"{VISUAL}.ln_post.bias": torch.full((384,), torch.nan)}), "not finite"),
        (lambda: change(qwen_vl(), {"transformer.h.1.mlp.w1.weight": None}), "w1"),
    ],
)
def test_what_cannot_be_is_one_clear_error(make, message, tmp_path, seed) -> None:
    with pytest.raises(LmcourseError, match=message) as caught:
        open_engine(make().write(tmp_path / "model"))
    assert caught.value.next_step


def test_text_only_qwen_has_no_eyes(tmp_path, seed) -> None:
    tiny = qwen_vl()
    config = {key: value for key, value in tiny.config.items() if key != "visual"}
    tensors = {name: tensor for name, tensor in tiny.tensors.items() if not name.startswith(VISUAL)}
    with open_engine(tiny._replace(config=config, tensors=tensors).write(tmp_path / "model")) as engine:
        assert engine.encoder is None
        expect(tiny, prompt := random_ids(9), run_parts(engine, [prompt])[0])


def test_language_part_in_four_bits(draw, tmp_path, seed) -> None:
    """What is packed is QWen's, and speaks as the weights that its four bits stand for; the eyes stay as they are."""
    from lmcourse.lite import AwqJob, auto_awq
    from lmcourse.quant import QuantSettings

    tiny = qwen_vl()
    job = AwqJob(calib_samples=4, calib_seqlen=32, settings=QuantSettings(group_size=8))
    auto_awq(tiny.write(tmp_path / "model"), tmp_path / "small", job, device="cpu")
    stored = load_file(tmp_path / "small" / "model.safetensors")
    eyes = {name for name in tiny.tensors if name.startswith(VISUAL)}
    assert {name for name in stored if name.startswith(VISUAL)} == eyes
    assert all(torch.equal(tiny.tensors[name].half(), stored[name]) for name in eyes)
    packed = {name.removesuffix(".qweight") for name in stored if name.endswith(".qweight")}
    parts = ("attn.c_attn", "attn.c_proj", "mlp.w1", "mlp.w2", "mlp.c_proj")
    assert packed == {f"transformer.h.{n}.{part}" for n in range(2) for part in parts}
    prompt = [*random_ids(4), draw(40, 25), *random_ids(5)]
    with open_engine(tmp_path / "small", dtype="float32") as engine:
        assert engine.weight_format == "awq"
        expect(tiny._replace(tensors=stored_weights(tmp_path / "small")), prompt, run_parts(engine, [prompt])[0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("dtype", "share"), [("float32", 2e-4), ("bfloat16", 0.05)])
def test_cuda_is_as_near_as_its_dtype_can_be(dtype, share, draw, tmp_path, seed) -> None:
    """Kernels, graphs, and pictures in one batch with text; share of the largest logit, which layers round anew."""
    tiny = qwen_vl(inner=320)
    folder, prompts = tiny.write(tmp_path / "model"), mixed_prompts(draw)
    with open_engine(folder, dtype=dtype, max_prefill_token_num=64) as engine:
        answers = run_parts(engine, prompts)
    for parts, (tokens, found) in zip(prompts, answers, strict=True):
        logits = reference_qwen_vl.logits(tiny.config, tiny.tensors, [*parts, *tokens[:-1]])[-NUM_NEW:]
        wanted = logits.log_softmax(-1)
        assert float((found.double() - wanted).abs().max()) < share * float(logits.abs().max())
