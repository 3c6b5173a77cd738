"""Which answers of tiny-chat may be compared token for token between two ways to compute them.

Sums in another order move a log probability by some 1e-5, and of 10⁴ tokens tiny-chat has about five whose runner-up is
within 1e-3: left alone, thousands of fresh tokens would now and then contain one that goes the other way.
"""

from __future__ import annotations

from lmcourse import Response

_NEAR = 1e-3


def is_clear(response: Response) -> bool:
    """Of a greedy answer that was asked for with logprobs=2: no token had a rival."""
    assert response.logprobs is not None
    best = (sorted(report.values(), reverse=True)[:2] for report in response.logprobs)
    return all(first - second > _NEAR for first, second in best)
