"""InternLM-XComposer 1 and 2 against float64 references: logits within 1e-4, however steps are cut."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.extend([str(Path(__file__).parent), str(Path(__file__).parents[1] / "references")])

from xcomposer_cases import TINIES, VOCAB, Tiny, xcomposer2

from lmcourse import GenerationConfig, TurbomindEngineConfig
from lmcourse.engine import Engine
from lmcourse.text.pictures import PicturedIds, Piece
from lmcourse.vision import load_encoder

NUM_NEW = 3
ALL = GenerationConfig(max_new_tokens=NUM_NEW, ignore_eos=True, logprobs=VOCAB)
CPU = torch.device("cpu")


@pytest.fixture(params=TINIES)
def tiny(request, seed) -> Tiny:
    return TINIES[request.param]()


def open_engine(folder: Path, **settings) -> Engine:
    usual = {"session_len": 200, "cache_block_seq_len": 16}
    return Engine.from_folder(folder, TurbomindEngineConfig(**usual | settings))


def make_prompt(engine: Engine, parts: list) -> PicturedIds:
    """Ids and pictures → a prompt."""
    ids, pieces = [], []
    for part in parts:
        if isinstance(part, int):
            ids.append(part)
        else:
            picture = engine.encoder.prepare(part)
            pieces.append(Piece(len(ids), picture))
            ids += [engine.encoder.placeholder_id] * picture.num_tokens
    return PicturedIds(ids, pieces)


def run(engine: Engine, prompts: list[list]) -> list[tuple[list[int], Tensor]]:
    """Per prompt: the tokens chosen, and the log probabilities of all tokens at each."""
    order = [engine.add(make_prompt(engine, parts), ALL) for parts in prompts]
    tokens, reports = {i: [] for i in order}, {i: [] for i in order}
    while engine.has_work:
        for output in engine.step():
            tokens[output.request_id] += output.token_ids
            reports[output.request_id] += output.logprobs or []
        engine.check()
    return [(tokens[i], torch.tensor([[report[n] for n in range(VOCAB)] for report in reports[i]])) for i in order]


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


def test_logits_are_the_references(tiny, draw, tmp_path) -> None:
    """One after the other, and all in one batch; warnings are errors, so the language model uses every tensor."""
    prompts = mixed_prompts(draw)
    with open_engine(tiny.write(tmp_path / "model")) as engine:
        for prompt in prompts:
            expect(tiny, prompt, run(engine, [prompt])[0])
        for prompt, answer in zip(prompts, run(engine, prompts), strict=True):
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
    prompts = mixed_prompts(draw)
    with open_engine(tiny.write(tmp_path / "model"), **settings) as engine:
        for _ in range(2):
            for prompt, answer in zip(prompts, run(engine, prompts), strict=True):
                expect(tiny, prompt, answer)
        hits = engine.stats().num_hit_tokens
    assert (hits > 0) == bool(settings.get("enable_prefix_caching"))


def test_a_token_without_a_picture_takes_nothing_from_its_neighbours_low_rank_part(draw, tmp_path, seed) -> None:
    """Version 2 without pictures is InternLM2; the other half of the batch has pictures."""
    tiny, plain = xcomposer2(), random_ids(13)
    with open_engine(tiny.write(tmp_path / "model")) as engine:
        alone = run(engine, [plain])[0][1]
        beside = run(engine, [[draw(30, 30), 5], plain, [4, draw(20, 50), 6]])[1][1]
    torch.testing.assert_close(beside, alone, rtol=0, atol=2e-5)


def test_positions_of_another_grid_are_stretched(draw, tmp_path, seed) -> None:
    tiny = xcomposer2(stored_grid=2)
    with open_engine(tiny.write(tmp_path / "model")) as engine:
        prompt = [3, draw(50, 40), 9]
        expect(tiny, prompt, run(engine, [prompt])[0])
