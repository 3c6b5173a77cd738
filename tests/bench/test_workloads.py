"""Benchmark requests: lengths, ids, seeds."""

from __future__ import annotations

import pytest

from lmcourse.bench import mixed_requests
from lmcourse.errors import ConfigError


def test_mixed_requests_stay_in_their_ranges_and_reach_the_ends():
    requests = mixed_requests(300, vocab=50, seed=1, prompt_lens=(3, 6), output_lens=(1, 2), excluded_ids={0, 7})
    assert {len(request.prompt_ids) for request in requests} == {3, 4, 5, 6}
    assert {request.num_output_tokens for request in requests} == {1, 2}
    ids = {i for request in requests for i in request.prompt_ids}
    assert ids == set(range(50)) - {0, 7}


def test_mixed_requests_repeat_with_their_seed_only():
    assert mixed_requests(5, vocab=100, seed=3) == mixed_requests(5, vocab=100, seed=3)
    assert mixed_requests(5, vocab=100, seed=3) != mixed_requests(5, vocab=100, seed=4)


@pytest.mark.parametrize("lens", [(0, 4), (5, 4)])
def test_mixed_requests_with_a_range_that_is_none(lens):
    with pytest.raises(ConfigError, match="prompt_lens"):
        mixed_requests(2, vocab=10, prompt_lens=lens)
