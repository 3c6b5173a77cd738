"""Request: counts, and an invariant that notices when it is broken."""

import pytest

from lmcourse.engine.request import Request, RequestState


def test_counts_follow_tokens() -> None:
    request = Request(3, (5, 6, 5), max_tokens=6)
    assert (request.num_tokens, request.prompt_len, request.num_outputs, request.num_to_compute) == (3, 3, 0, 3)
    request.append(9)
    assert (request.num_tokens, request.num_outputs, request.output_ids) == (4, 1, [9])
    assert request.distinct_ids == {5, 6, 9}
    request.output_ids.append(1)
    assert request.output_ids == [9], "output_ids must be a copy"


def test_prompt_is_copied() -> None:
    prompt = [1, 2]
    request = Request(0, prompt, max_tokens=3)
    prompt.append(3)
    assert request.token_ids == [1, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_computed": 2}, "computed=2"),
        ({"num_computed": -1}, "computed=-1"),
        ({"max_tokens": 1}, "Request"),
        ({"num_computed": 1}, "1 computed tokens in room for 0"),
        ({"blocks": [0], "state": RequestState.WAITING}, "owns blocks without running"),
    ],
)
def test_check_refuses_a_broken_state(changes: dict, message: str) -> None:
    request = Request(0, (1, 2), max_tokens=4)
    request.check(tokens_per_block=4)
    for name, value in changes.items():
        setattr(request, name, value)
    with pytest.raises(AssertionError, match=message):
        request.check(tokens_per_block=4)


def test_repr_is_one_true_line() -> None:
    assert repr(Request(7, (1,), 2)) == "Request(7, waiting, prompt=1, output=0, computed=0, blocks=0)"
