"""Tokens by the second, against the plain list of what was added."""

from __future__ import annotations

from lmcourse.serve.class_work import HISTORY_SECONDS, Tally


def test_tally_counts_by_the_second(rng):
    tally, added, now = Tally(), [], rng.uniform(0, 1e6)
    for _ in range(400):
        now += rng.choice((0.0, 0.01, 0.4, 1.0, 3.7, 59.5, 61.0, 200.0))
        if rng.random() < 0.7:
            num_tokens = rng.randrange(9)
            tally.add(now, num_tokens)
            added.append((int(now), num_tokens))
        expected = [
            sum(num for second, num in added if second == int(now) - HISTORY_SECONDS + place)
            for place in range(HISTORY_SECONDS)
        ]
        assert tally.last_minute(now) == expected
        assert tally.total == sum(num for _, num in added)
