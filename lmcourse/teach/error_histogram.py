"""What quantisation does to keys and values: how often an error of which size, one outline per format.

    ▁▂▅▇█▇▅▂▁   8 bits: narrow, high          ▁▂▂▃▃▃▃▃▂▂▁   4 bits: sixteen times as wide

Lesson: 3 (KV8 and KV4)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lmcourse.errors import ConfigError
from lmcourse.teach.drawing import Drawing
from lmcourse.teach.style import DASHES, new_axes

__all__ = ["error_histogram"]

_BINS = 81


def error_histogram(errors: Mapping[str, Sequence[float]], *, title: str = "Rounding errors") -> Drawing:
    """errors[format] = differences to the exact values; the same bins for all, densities on a log scale."""
    arrays = {name: np.asarray(values, dtype=np.float64).ravel() for name, values in errors.items()}
    if not arrays or any(array.size == 0 or not np.isfinite(array).all() for array in arrays.values()):
        raise ConfigError("errors cannot be counted", expected="finite numbers for every format", got=list(errors))
    reach = max(float(np.abs(array).max()) for array in arrays.values()) or 1.0
    edges = np.linspace(-reach, reach, _BINS + 1)
    figure, axes = new_axes(8.0, 3.0)
    said = []
    for n, (name, array) in enumerate(arrays.items()):
        density, _ = np.histogram(array, bins=edges, density=True)
        spread = float(np.sqrt(np.mean(array**2)))
        label = f"{name}: root mean square {spread:.2g}"
        axes.stairs(density, edges, color="black", ls=DASHES[n % 4], lw=1.3, label=label)
        said.append(f"{name}: root mean square {spread:.2g}, largest {np.abs(array).max():.2g}")
    axes.set_yscale("log")
    axes.set_xlabel("stored minus exact")
    axes.set_ylabel("how often (density)")
    axes.set_title(title, loc="left", fontsize="medium")
    figure.legend(loc="outside lower left", ncols=len(arrays), fontsize=8, frameon=False)
    return Drawing(figure, f"{title}. {'; '.join(said)}.")
