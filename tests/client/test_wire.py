"""What a server's chunks mean: logprobs in both of OpenAI's forms, and a server that names no ids."""

import math
import random

import pytest

from lmcourse.client.wire import read_pieces
from lmcourse.errors import ServerError


def chat_chunk(reports):
    entries = []
    for chosen, report in reports:
        name = {
            i: {"token": f"token_id:{i}", "logprob": max(value, -9999.0), "bytes": []} for i, value in report.items()
        }
        entries.append({**name[chosen], "top_logprobs": [name[i] for i in report if i != chosen]})
    return {
        "choices": [{"index": 0, "delta": {}, "logprobs": {"content": entries}, "token_ids": [c for c, _ in reports]}]
    }


def completion_chunk(reports):
    report = {
        "tokens": [f"token_id:{chosen}" for chosen, _ in reports],
        "token_logprobs": [max(values[chosen], -9999.0) for chosen, values in reports],
        "top_logprobs": [
            {f"token_id:{i}": max(value, -9999.0) for i, value in values.items() if i != c} for c, values in reports
        ],
        "text_offset": [0] * len(reports),
    }
    return {"choices": [{"index": 0, "text": "", "logprobs": report, "token_ids": [c for c, _ in reports]}]}


@pytest.mark.parametrize("form", [chat_chunk, completion_chunk])
def test_read_pieces_gives_logprobs_by_token_id(form) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    reports = []
    for _ in range(rng.randrange(1, 5)):
        ids = rng.sample(range(4096), rng.randrange(1, 6))
        reports.append((rng.choice(ids), {i: rng.choice((-math.inf, -rng.random() * 20)) for i in ids}))
    (piece,) = read_pieces(form(reports))
    assert piece.logprobs == [report for _, report in reports]
    assert piece.num_tokens == len(reports)
    assert piece.token_ids == [chosen for chosen, _ in reports]


def test_read_pieces_of_a_server_that_names_no_ids_is_refused() -> None:
    chunk = chat_chunk([(5, {5: -0.1})])
    chunk["choices"][0]["logprobs"]["content"][0]["token"] = "hello"
    with pytest.raises(ServerError, match="does not tell which tokens"):
        read_pieces(chunk)


def test_read_pieces_without_logprobs_has_none() -> None:
    (piece,) = read_pieces({"choices": [{"index": 1, "delta": {"content": "x"}, "logprobs": None}]})
    assert (piece.index, piece.logprobs, piece.num_tokens) == (1, [], 1)
