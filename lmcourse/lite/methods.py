"""The ways to make a layer small: how the scales are chosen, and how weights are then rounded.

    ROUND_TO_NEAREST   no scales                                  the baseline to beat
    SMOOTH             LMDeploy 0.3.0's fixed rule                `lmcourse lite auto_awq`
    SEARCH             AWQ: 20 candidates                         `lmcourse lite auto_awq --search-scale`

Behind either kind of scales errors are compensated (quant/compensation.py). `plain()` is the method as it was
published: each weight rounded by itself, with clipping where the method has it.

Lesson: 4 (AWQ from scratch)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from lmcourse.quant import ChannelStats, QuantSettings, search_scale, smooth_scale

__all__ = ["METHODS", "ROUND_TO_NEAREST", "SEARCH", "SMOOTH", "Method"]

ChooseScale = Callable[[Sequence[Tensor], ChannelStats, QuantSettings], Tensor]


@dataclass(frozen=True)
class Method:
    """choose_scale None: weights stay as they are. clips: groups whose weights are rounded each by itself."""

    name: str
    what: str
    choose_scale: ChooseScale | None
    clips: bool
    compensates: bool = True

    def plain(self) -> Method:
        """Without compensation."""
        return replace(self, compensates=False, what=f"{self.what}, rounded to nearest") if self.compensates else self


def _searched(weights: Sequence[Tensor], stats: ChannelStats, settings: QuantSettings) -> Tensor:
    return search_scale(weights, stats, settings).scale


ROUND_TO_NEAREST = Method("rtn", "rounded to nearest", None, clips=False, compensates=False)
SMOOTH = Method("smooth", "smoothed with alpha 0.5", smooth_scale, clips=False)
SEARCH = Method("search", "AWQ scales searched", _searched, clips=True)
METHODS = {method.name: method for method in (ROUND_TO_NEAREST, SMOOTH, SEARCH)}
