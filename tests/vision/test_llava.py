"""LLaVA against transformers: features, logits through the engine, several pictures, any cutting of a prompt."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lmcourse import GenerationConfig, TurbomindEngineConfig, pipeline
from lmcourse.engine import Engine
from lmcourse.errors import UnsupportedModelError
from lmcourse.models import convert
from lmcourse.text.pictures import PicturedIds, Piece
from lmcourse.vision import load_encoder

SIZES = ((1, 1), (3000, 20), (1920, 1080), (90, 160), (28, 28))
KINDS = ("1.5-hf", "1.5-liuhaotian", "1.6-hf", "1.6-liuhaotian")
VOCAB, IMAGE_ID = 300, 299
ALL = GenerationConfig(max_new_tokens=3, ignore_eos=True, logprobs=VOCAB)


def open_engine(folder: Path, **settings) -> Engine:
    usual = {"session_len": 500, "cache_block_seq_len": 16}
    return Engine.from_folder(folder, TurbomindEngineConfig(**usual | settings))


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


def run(engine: Engine, prompts: list) -> list[tuple[list[int], Tensor]]:
    """Per prompt: the tokens chosen, and the log probabilities of all tokens at each."""
    order = [engine.add(prompt, ALL) for prompt in prompts]
    tokens, reports = {i: [] for i in order}, {i: [] for i in order}
    while engine.has_work:
        for output in engine.step():
            tokens[output.request_id] += output.token_ids
            reports[output.request_id] += output.logprobs or []
        engine.check()
    return [(tokens[i], torch.tensor([[report[n] for n in range(VOCAB)] for report in reports[i]])) for i in order]


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
    with open_engine(llava.folder) as engine:
        shown = [[one], others[:1], others[1:2], others[2:4], [], [others[3], one, others[3]]]
        prompts = [make_prompt(engine, [1, 40 + n], *pictures, [50, 60 + n]) for n, pictures in enumerate(shown)]
        for pictures, prompt, answer in zip(shown, prompts, run(engine, prompts), strict=True):
            expect(llava, prompt, pictures, answer)


@pytest.mark.parametrize("settings", [{"max_prefill_token_num": 7}, {"cache_max_entry_count": 9, "session_len": 120}])
def test_chunks_and_preemption_change_nothing(llavas, draw, settings) -> None:
    llava = llavas["1.6-hf"]
    pictures = [draw(60, 40), draw(30, 90), draw(60, 40)]
    with open_engine(llava.folder) as engine:
        wanted = run(engine, [make_prompt(engine, [1, 5 + n], p, [9, 8, 7]) for n, p in enumerate(pictures)])
    with open_engine(llava.folder, **settings) as engine:
        found = run(engine, [make_prompt(engine, [1, 5 + n], p, [9, 8, 7]) for n, p in enumerate(pictures)])
    for (tokens, report), (same_tokens, same_report) in zip(wanted, found, strict=True):
        assert tokens == same_tokens
        torch.testing.assert_close(report, same_report, rtol=0, atol=1e-4)


def test_prefix_cache_tells_pictures_apart(llavas, draw) -> None:
    llava = llavas["1.5-hf"]
    one, other = draw(40, 40), draw(40, 40)
    with open_engine(llava.folder, enable_prefix_caching=True) as engine:
        for picture in (one, other, one):
            prompt = make_prompt(engine, [1] * 4, picture, list(range(20, 50)))
            expect(llava, prompt, [picture], run(engine, [prompt])[0])
        assert engine.stats().num_hit_tokens == 48  # the third found the first's full blocks


def test_features_are_kept_for_the_next_turn(llavas, draw) -> None:
    picture = draw(50, 70)
    with open_engine(llavas["1.6-hf"].folder) as engine:
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
        logits = llava.logits(ids, [picture])
        assert response.token_ids[0] == logits[-1].argmax(-1).item()
        assert response.input_token_len == len(ids)


@pytest.mark.parametrize("kind", ["1.6-hf", "1.5-liuhaotian"])
def test_language_part_in_four_bits_keeps_its_eyes(llavas, draw, tmp_path, kind) -> None:
    from lmcourse.lite import AwqJob, auto_awq
    from lmcourse.quant import QuantSettings

    llava, picture = llavas[kind], draw(70, 50)
    job = AwqJob(calib_samples=2, calib_seqlen=32, settings=QuantSettings(group_size=16))
    auto_awq(llava.folder, tmp_path / "small", job, device="cpu")
    names = set(load_file(tmp_path / "small" / "model.safetensors"))
    plain = set(load_file(llava.folder / "model.safetensors"))
    matrices = {name for name in plain if "_proj.weight" in name and "vision" not in name}
    assert plain - names == matrices
    assert {name.replace("weight", "qweight") for name in matrices} <= names
    if kind == "1.5-liuhaotian":
        (tmp_path / "small" / "tower").symlink_to(llava.folder / "tower")
    with open_engine(tmp_path / "small") as engine:
        prompt = make_prompt(engine, [1, 7], picture, [9, 8])
        _, found = run(engine, [prompt])[0]
        marked = [IMAGE_ID if token == 0 else token for token in prompt]
        wanted = llava.logits(marked, [picture])[-1].log_softmax(-1)
        assert torch.corrcoef(torch.stack([found[0], wanted]))[0, 1] > 0.9
        assert engine.weight_format == "awq"


def test_convert_refuses_to_blind_a_model(llavas, tmp_path) -> None:
    with pytest.raises(UnsupportedModelError, match="not converted"):
        convert(llavas["1.5-hf"].folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
