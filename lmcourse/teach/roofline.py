"""A roofline: how fast a machine can be at an intensity, and how near measured points come.

    FLOP/s │        ┌──────────  peak
           │      ／
           │    ／   × measured        left of the corner reading decides, right of it arithmetic
           └──／──────────────  FLOPs per byte

Lesson: 4 (compute-bound and memory-bound)
"""

from __future__ import annotations

from collections.abc import Mapping

from lmcourse.accounting import Device
from lmcourse.errors import ConfigError
from lmcourse.teach.drawing import Drawing
from lmcourse.teach.style import new_axes

__all__ = ["attainable", "roofline"]

_MARKERS = "os^Dvx*P"


def attainable(device: Device, intensity: float) -> float:
    """FLOP/s at so many FLOPs per byte."""
    return min(device.flops_per_second, intensity * device.bytes_per_second)


def roofline(device: Device, points: Mapping[str, tuple[float, float]], *, title: str = "Roofline") -> Drawing:
    """points[name] = (FLOPs per byte, FLOP/s reached)."""
    if any(not (x > 0 and y > 0) for x, y in points.values()):
        raise ConfigError("a point of a roofline must be above 0", expected="FLOPs per byte, FLOP/s", got=dict(points))
    corner = device.flops_per_second / device.bytes_per_second
    xs = [x for x, _ in points.values()] or [corner]
    low, high = min(*xs, corner) / 4, max(*xs, corner) * 4
    figure, axes = new_axes(8.0, 3.6)
    ends = [low, corner, high]
    axes.plot(ends, [attainable(device, x) for x in ends], color="black", lw=1.4)
    axes.axvline(corner, color="black", ls=":", lw=0.8)
    for n, (name, (x, y)) in enumerate(points.items()):
        axes.plot([x], [y], marker=_MARKERS[n % len(_MARKERS)], color="black", mfc="white", ms=6, ls="none")
        axes.annotate(f"  {name}", (x, y), fontsize=8, va="top")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("FLOPs per byte that is moved")
    axes.set_ylabel("FLOP/s")
    axes.set_title(title, loc="left", fontsize="medium")
    return Drawing(figure, _describe(device, points, corner, title))


def _describe(device: Device, points: Mapping[str, tuple[float, float]], corner: float, title: str) -> str:
    said = [
        f"{name}: {y / 1e9:.3g} GFLOP/s at {x:.3g} FLOPs per byte, {100 * y / attainable(device, x):.0f} % of the roof"
        for name, (x, y) in points.items()
    ]
    corner_text = f"the corner lies at {corner:.3g} FLOPs per byte"
    return f"{title}: {corner_text}. " + "; ".join(said) + "."
