"""The trainable decoder: decoding equals the full pass, export equals transformers' InternLM2."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lmcourse.zoo.checkpoint import TINY_CHAT, Sizes, load_state, save_checkpoint
from lmcourse.zoo.decoder import TrainableDecoder
from lmcourse.zoo.decoding import greedy

_SMALL = Sizes(
    vocab=97, hidden=64, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16, intermediate=96, max_context=64
)


@pytest.fixture(scope="module")
def model() -> TrainableDecoder:
    made = TrainableDecoder(_SMALL, seed=3)
    with torch.no_grad():
        for weight in made.parameters():
            if weight.ndim == 2:
                weight.mul_(6)  # far from uniform, so that the likeliest token is clear
    return made.eval()


def test_greedy_batch_of_unequal_prompts_equals_full_passes(model: TrainableDecoder) -> None:
    prompts = [[5, 9, 11], [1] * 17 + [4], [7], list(range(30, 50))]
    with torch.no_grad():
        for prompt, made in zip(prompts, greedy(model, prompts, max_new=9, stop=frozenset()), strict=True):
            row = torch.tensor(prompt + made)
            likeliest = model.output(model(row, row.numel())).argmax(-1)
            assert likeliest[len(prompt) - 1 : -1].tolist() == made
            assert len(made) == 9


def test_greedy_stops_before_the_stop_token(model: TrainableDecoder) -> None:
    free = greedy(model, [[5, 9, 11]], max_new=8, stop=frozenset())[0]
    assert greedy(model, [[5, 9, 11]], max_new=8, stop=frozenset({free[3]}))[0] == free[: free.index(free[3])]


def test_greedy_never_exceeds_the_context(model: TrainableDecoder) -> None:
    assert len(greedy(model, [[3] * 60], max_new=50, stop=frozenset())[0]) == 4


def test_forward_rows_do_not_see_each_other(model: TrainableDecoder) -> None:
    generator = torch.Generator().manual_seed(5)
    rows = torch.randint(0, 97, (3, 16), generator=generator)
    with torch.no_grad():
        together = model(rows.reshape(-1), 16).view(3, 16, -1)
        for index in range(3):
            torch.testing.assert_close(together[index], model(rows[index], 16), atol=1e-5, rtol=1e-5)


def test_save_checkpoint_round_trips_and_matches_transformers(tmp_path: Path) -> None:
    from lmcourse.baseline import InternLM2ForCausalLM

    made = TrainableDecoder(TINY_CHAT, seed=9)
    save_checkpoint(made.state_dict(), tmp_path)
    state = load_state(tmp_path)
    made.load_state_dict(state)
    other = InternLM2ForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    tokens = torch.randint(0, 4096, (1, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = made.output(made(tokens[0], 40))
        theirs = other(tokens).logits[0]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_save_checkpoint_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lmcourse.zoo.checkpoint as module

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(OSError, match="no space left"):
        save_checkpoint(TrainableDecoder(_SMALL, seed=0).state_dict(), tmp_path, _SMALL)
    assert list(tmp_path.iterdir()) == []
