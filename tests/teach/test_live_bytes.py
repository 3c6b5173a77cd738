"""LiveBytes counts results from their first operation to their last view."""

from __future__ import annotations

import torch

from lmcourse.teach import LiveBytes, measure_intermediate_bytes


def test_live_bytes_counts_results_while_something_refers_to_them() -> None:
    given = torch.ones(1000)
    with LiveBytes() as live:
        first = given * 2
        assert live.live_bytes == 4000
        second = first + 1
        assert live.live_bytes == 8000
        view = first.view(10, 100)[3]
        del first, second
        assert live.live_bytes == 4000
        del view
    assert live.live_bytes == 0
    assert live.peak_bytes == 8000


def test_live_bytes_counts_nothing_that_was_there_before() -> None:
    given, out = torch.ones(1000), torch.empty(1000)
    with LiveBytes() as live:
        torch.add(given, 1, out=out)
        out.mul_(2)
        given.view(10, 100).t()
    assert live.peak_bytes == 0


def test_intermediate_results_grow_with_the_tokens_computed_at_once() -> None:
    short, long = (measure_intermediate_bytes("tiny-chat", n, cache_max_entry_count=32) for n in (200, 400))
    assert 1.8 < long / short < 2.2
    chunked = measure_intermediate_bytes("tiny-chat", 400, cache_max_entry_count=32, max_prefill_token_num=100)
    assert chunked < short
