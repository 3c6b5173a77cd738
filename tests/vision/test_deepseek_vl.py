"""DeepSeek-VL against transformers: one tower and two, either layout, however steps are cut."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

sys.path.append(str(Path(__file__).parent))

from deepseek_vl_cases import EVEN, IMAGE_ID, KINDS, TinyDeepseekVl, make
from picture_runs import NUM_NEW, assert_best, assert_same_answers, make_prompt, open_engine, plain_copy, run

from lmcourse import TurbomindEngineConfig, pipeline
from lmcourse.errors import CheckpointError
from lmcourse.text.pictures import PicturedIds
from lmcourse.vision import load_encoder

SIZES = ((1, 1), (3000, 20), (1920, 1080), (90, 160), (64, 64))
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


def mixed_parts(draw) -> list[list]:
    """Odd sizes, several pictures in a prompt, one twice, texts alone."""
    a, b, c, d, e = (draw(*size) for size in SIZES)
    return [[1, 40, a, 50], [1, 7, b, 8, 9], [1, c], [1, 3, d, 4, e, 5, 6], [1, 20, 21, 22], [1, a, b, a, 77]]


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_those_of_transformers(tinies, draw, kind) -> None:
    tiny = tinies(kind)
    encoder = load_encoder(tiny.folder, dtype=torch.float32, device=CPU)
    pictures = [draw(*size) for size in SIZES]
    ready = [encoder.prepare(picture) for picture in pictures]
    for picture, one, features in zip(pictures, ready, encoder.encode(ready), strict=True):
        inputs = tiny.pixels(picture)
        found = encoder.eyes.normalise(*(torch.from_numpy(square)[None] for square in one.squares))
        for pixels, name in zip(found, ("pixel_values", "high_res_pixel_values"), strict=True):
            assert (pixels is None) == (name not in inputs)
            if pixels is not None:
                torch.testing.assert_close(pixels, inputs[name], rtol=0, atol=1e-6)
        with torch.no_grad():
            wanted = tiny.model.model.get_image_features(**inputs).pooler_output[0]
        torch.testing.assert_close(features, wanted, rtol=0, atol=3e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_transformers(tinies, draw, kind) -> None:
    tiny, conversations = tinies(kind), mixed_parts(draw)
    with open_engine(tiny.folder) as engine:
        prompts = [make_prompt(engine, parts) for parts in conversations]
        answers = run(engine, prompts)
    for parts, prompt, (tokens, found) in zip(conversations, prompts, answers, strict=True):
        count = tokens.index(IMAGE_ID) if IMAGE_ID in tokens else len(tokens)  # transformers would look for its picture
        pictures = [part for part in parts if not isinstance(part, int)]
        logits = tiny.logits([*ids_of(prompt), *tokens[:count]], pictures)[len(prompt) - 1 :]
        torch.testing.assert_close(found[: count + 1], logits[:NUM_NEW].log_softmax(-1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("settings", [{"max_prefill_token_num": 7}, {"cache_max_entry_count": 9, "session_len": 120}])
def test_chunks_and_preemption_change_nothing(tinies, draw, settings) -> None:
    folder, conversations = tinies("two-hf").folder, mixed_parts(draw)
    with open_engine(folder) as engine:
        prompts = [make_prompt(engine, parts) for parts in conversations]
        alone = [run(engine, [prompt])[0] for prompt in prompts]
    with open_engine(folder, **settings) as engine:
        together = run(engine, prompts)
    assert_same_answers(together, alone)


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_counts(tinies, draw, tmp_path, kind) -> None:
    """Changing any tensor of the eyes changes the features; one too many is named, one too few is an error."""
    tiny, picture = tinies(kind), draw(50, 90)
    folder = tmp_path / "changed"
    shutil.copytree(tiny.folder, folder)
    tensors = load_file(folder / "model.safetensors")

    def features() -> Tensor:
        encoder = load_encoder(folder, dtype=torch.float32, device=CPU)
        return encoder.encode([encoder.prepare(picture)])[0]

    wanted = features()
    idle = ("attn_pool", "high_layer_norm")
    names = [name for name in tensors if "language_model" not in name and "lm_head" not in name]
    seen = [name for name in names if not any(part in name for part in idle)]
    for name in seen[:: max(1, len(seen) // 9)]:
        tensor = tensors[name] + 0.3 * torch.randn_like(tensors[name])
        save_file({**tensors, name: tensor}, folder / "model.safetensors")
        if not name.endswith("k_proj.bias"):  # keys' biases shift all scores of a query alike
            assert not torch.allclose(features(), wanted, rtol=0, atol=1e-6), name
    save_file({**tensors, "aligner.more.weight": torch.ones(2)}, folder / "model.safetensors")
    with pytest.warns(UserWarning, match=r"does not use: aligner\.more\.weight"):
        features()
    save_file({name: t for name, t in tensors.items() if name != seen[-1]}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"has no tensor"):
        features()


def test_pipeline_writes_the_published_prompt(tinies, draw) -> None:
    """One picture stands before the text; several are numbered, as LMDeploy writes them."""
    tiny = tinies("one-published")
    system = (
        "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
        "provides, and assist the user with a variety of tasks using natural language.\n\nUser: "
    )
    picture, other = draw(64, 48), draw(10, 20)
    with pipeline(tiny.folder, backend_config=TurbomindEngineConfig(session_len=500)) as pipe:
        ids = pipe.encode(("describe it", picture))
        head = pipe.tokenizer.encode(system, add_bos=True)
        assert ids == [*head, *[0] * 16, *pipe.tokenizer.encode("describe it\n\nAssistant:", add_bos=False)]
        more = pipe.encode(("which?", [picture, other]))
        told = ["is Figure 0.\n", "is Figure 1.\nwhich?\n\nAssistant:"]
        first, second = (pipe.tokenizer.encode(" " + text, add_bos=False) for text in told)
        assert more == [*head, *[0] * 16, *first, *[0] * 16, *second]
        response = pipe(("describe it", picture), max_new_tokens=4, ignore_eos=True)
        assert_best(response.token_ids[0], tiny.logits(ids_of(ids), [picture])[-1])


def ids_of(ids: PicturedIds) -> list[int]:
    """As transformers wants them: its own token at pictures."""
    marked = list(ids)
    for piece in ids.pieces:
        marked[piece.start : piece.stop] = [IMAGE_ID] * piece.picture.num_tokens
    return marked


@pytest.mark.parametrize("kind", ["one-published", "two-hf"])
def test_language_part_in_four_bits_keeps_its_eyes(tinies, draw, tmp_path, kind) -> None:
    from lmcourse.lite import AwqJob, auto_awq
    from lmcourse.quant import QuantSettings

    tiny, picture = tinies(kind), draw(70, 50)
    job = AwqJob(calib_samples=2, calib_seqlen=32, settings=QuantSettings(group_size=16))
    auto_awq(tiny.folder, tmp_path / "small", job, device="cpu")
    after, before = (load_file(place / "model.safetensors") for place in (tmp_path / "small", tiny.folder))
    matrices = {n for n in before if "language_model" in n and n.endswith("_proj.weight")}
    assert before.keys() - after.keys() == matrices
    assert len(matrices) == 14
    eyes = [n for n in before if "language_model" not in n and "lm_head" not in n]
    assert all(torch.equal(before[n].half(), after[n]) for n in eyes)
    answers = []
    for folder, form in ((tmp_path / "small", "awq"), (plain_copy(tmp_path / "small", tmp_path / "plain"), "plain")):
        with open_engine(folder, dtype="float32") as engine:
            assert engine.weight_format == form
            answers.append(run(engine, [make_prompt(engine, [1, 7, picture, 9, 8])]))
    assert_same_answers(*answers)


def test_families_trial_runs_both_kinds() -> None:
    from lmcourse.bench.families import run_family, try_family
    from lmcourse.models import FAMILIES

    (row,) = [family for family in FAMILIES if family.name == "DeepSeek-VL"]
    assert row.status == "runs"
    assert run_family(row).ok is True
    assert try_family(row).ok is True


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "share"), [("float32", 2e-4), ("bfloat16", 0.05)])
@pytest.mark.parametrize("kind", KINDS)
def test_cuda_is_as_near_as_its_dtype_can_be(draw, tmp_path, kind, dtype, share) -> None:
    """Kernels, graphs, and pictures in one batch with text; share of the largest logit, which layers round anew."""
    tiny, conversations = make(kind, tmp_path / kind, EVEN), mixed_parts(draw)
    with open_engine(tiny.folder, dtype=dtype, max_prefill_token_num=64) as engine:
        prompts = [make_prompt(engine, parts) for parts in conversations]
        answers = run(engine, prompts)
        again = run(engine, prompts)
    for parts, prompt, (tokens, found), (same, _) in zip(conversations, prompts, answers, again, strict=True):
        pictures = [part for part in parts if not isinstance(part, int)]
        logits = tiny.logits(ids_of(prompt), pictures)[-1]
        wanted = logits.log_softmax(-1)
        assert (found[0] - wanted).abs().max() < share * logits.abs().max()
        assert tokens == same


def test_nothing_is_left_of_the_picture_but_its_pixels(tinies) -> None:
    """Equal pixels, equal keys; another pixel, another key."""
    encoder = load_encoder(tinies("two-hf").folder, dtype=torch.float32, device=CPU)
    one = np.full((30, 40, 3), 90, np.uint8)
    other = one.copy()
    other[3, 4] = 10
    keys = [encoder.prepare(Image.fromarray(array)).key for array in (one, one.copy(), other)]
    assert keys[0] == keys[1] != keys[2]
    with pytest.raises(dataclasses.FrozenInstanceError):
        encoder.prepare(Image.fromarray(one)).num_tokens = 3


def test_recorded_passes_read_the_pictures_of_their_call(tinies, draw) -> None:
    """What is recorded for a number of pictures is used for others of that number."""

    class Replays:
        def __init__(self) -> None:
            self.recorded = {}

        def run(self, key, work) -> Tensor:
            return self.recorded.setdefault(key, work)()

    encoder = load_encoder(tinies("two-hf").folder, dtype=torch.float32, device=CPU)
    recorder = Replays()
    for count in (1, 1, 5, 2, 1):
        ready = [encoder.prepare(draw(20 + number, 30)) for number in range(count)]
        for found, wanted in zip(encoder.encode(ready, recorder), encoder.encode(ready), strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    assert set(recorder.recorded) == {("pictures", 1), ("pictures", 2), ("pictures", 4)}
