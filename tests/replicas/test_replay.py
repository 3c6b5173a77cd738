"""Whatever pieces the second replica cuts an answer into, the reader has each token once."""

from __future__ import annotations

import random

import pytest

from lmcourse.config import GenerationConfig
from lmcourse.errors import ReplicaLostError
from lmcourse.replicas.messages import Piece
from lmcourse.replicas.replay import Replay, seeded


@pytest.fixture
def rng() -> random.Random:
    seed = random.SystemRandom().randrange(2**32)
    print("seed", seed)
    return random.Random(seed)


def cut(rng, ids, words, reports) -> list[Piece]:
    """An answer in pieces of any size; the text of a token may come with a later one."""
    pieces, at, shown = [], 0, 0
    while at < len(ids):
        end = min(len(ids), at + rng.randint(1, 4))
        text_end = end if end == len(ids) else rng.randint(shown, end)
        reason = "length" if end == len(ids) else None
        logprobs = reports[at:end] if reports else None
        pieces.append(Piece(ids[at:end], "".join(words[shown:text_end]), reason, logprobs))
        at, shown = end, text_end
    return pieces


@pytest.mark.parametrize("with_logprobs", [False, True])
def test_replay_hands_out_each_token_once_over_several_deaths(rng, with_logprobs) -> None:
    ids = [rng.randrange(1000) for _ in range(40)]
    words = [f"w{token} " for token in ids]
    reports = [{token: -float(i)} for i, token in enumerate(ids)] if with_logprobs else None
    replay, heard = Replay(), []
    for death in (rng.randint(0, 5), rng.randint(0, 10), None):
        replay.restart()
        for piece in cut(rng, ids, words, reports)[:death]:
            new = replay.push(piece)
            if new is not None:
                heard.append(new)
    assert [token for piece in heard for token in piece.token_ids] == ids
    assert "".join(piece.text for piece in heard) == "".join(words)
    assert heard[-1].finish_reason == "length"
    if reports:
        assert [report for piece in heard for report in piece.logprobs] == reports


def test_replay_of_another_answer_is_an_error(rng) -> None:
    replay = Replay()
    replay.push(Piece([1, 2, 3], "abc", None, None))
    replay.restart()
    assert replay.push(Piece([1], "a", None, None)) is None
    with pytest.raises(ReplicaLostError, match="differently"):
        replay.push(Piece([2, 4], "bd", None, None))


def test_replay_has_begun_with_the_first_piece() -> None:
    replay = Replay()
    assert not replay.begun
    replay.push(Piece([5], "", None, None))
    assert replay.begun


def test_seeded_leaves_greedy_and_seeded_settings_alone() -> None:
    greedy, chosen = GenerationConfig(), GenerationConfig(random_seed=7)
    assert seeded(greedy) is greedy
    assert seeded(chosen) is chosen
    drawn = [seeded(GenerationConfig(temperature=0.7)).random_seed for _ in range(2)]
    assert None not in drawn
    assert drawn[0] != drawn[1]
