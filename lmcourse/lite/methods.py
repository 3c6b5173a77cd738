"""The ways to make a layer small: round to nearest, one smoothing rule, a search, and one that also compensates.

    ROUND_TO_NEAREST   no scales                                  the baseline to beat
    SMOOTH             LMDeploy 0.3.0's fixed rule                `lmcourse lite auto_awq`
    SEARCH             AWQ: 20 candidates, then clipping          `lmcourse lite auto_awq --search-scale`
    COMPENSATE         the same, then GPTQ's rounding             `lmcourse lite auto_awq --method compensate`

A row says which scales the input of some matrices gets, and whether groups may be clipped.

Lesson: 4 (AWQ from scratch)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from lmcourse.quant import ChannelStats, QuantSettings, search_scale, smooth_scale

__all__ = ["COMPENSATE", "METHODS", "ROUND_TO_NEAREST", "SEARCH", "SMOOTH", "Method"]

ChooseScale = Callable[[Sequence[Tensor], ChannelStats, QuantSettings], Tensor]


@dataclass(frozen=True)
class Method:
    """choose_scale None: weights stay as they are."""

    name: str
    what: str
    choose_scale: ChooseScale | None
    clips: bool
    compensates: bool = False


def _searched(weights: Sequence[Tensor], stats: ChannelStats, settings: QuantSettings) -> Tensor:
    return search_scale(weights, stats, settings).scale


ROUND_TO_NEAREST = Method("rtn", "rounded to nearest", None, clips=False)
SMOOTH = Method("smooth", "smoothed with alpha 0.5", smooth_scale, clips=False)
SEARCH = Method("search", "AWQ scales and clipping searched", _searched, clips=True)
COMPENSATE = Method(
    "compensate", "AWQ scales and clipping searched, rounding errors compensated (GPTQ)", _searched, clips=True,
    compensates=True,
)  # fmt: skip
METHODS = {method.name: method for method in (ROUND_TO_NEAREST, SMOOTH, SEARCH, COMPENSATE)}
