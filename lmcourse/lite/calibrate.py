"""calibrate: what flows through a model, written down and nothing changed.

    inputs_stats.safetensors     layers.N.MATRIX.{mean_abs,largest_abs}  float32 [in_features]
    kv_stats.safetensors         layers.N.{keys,values}.{min,max}        float32 [num_kv_heads, head_dim]
    calibration.json             which text, how many tokens

Keys are taken behind the rotation, as the cache stores them.

Lesson: 4 (why activations tell which channels matter)
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from lmcourse.engine.settings import choose_device
from lmcourse.lite.awq_job import AwqJob
from lmcourse.lite.calibration_text import find_text
from lmcourse.lite.layer_inputs import LayerInputs
from lmcourse.lite.visits import layers_with_inputs, make_tokens, open_source
from lmcourse.lite.work_folder import check_destination
from lmcourse.models import new_folder

__all__ = ["calibrate"]


def calibrate(
    source: Path,
    destination: Path,
    job: AwqJob | None = None,
    *,
    device: str | None = None,
    watch: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the statistics of a Hugging Face folder into a new folder."""
    job, destination = job or AwqJob(), Path(destination).expanduser().resolve()
    weights = open_source(source, choose_device(device))
    check_destination(destination, weights.checkpoint.folder.resolve())
    text = find_text(job.calib_dataset)
    tokens = make_tokens(weights, text, job)
    inputs_stats: dict[str, Tensor] = {}
    kv_stats: dict[str, Tensor] = {}
    for number, inputs in layers_with_inputs(weights, tokens, job):
        _take_down(number, inputs, inputs_stats, kv_stats)
        if watch is not None:
            watch(number + 1, weights.spec.num_layers)
    about = {"dataset": text.asked, "samples": job.calib_samples, "seqlen": job.calib_seqlen, "instead": text.instead}
    with new_folder(destination) as folder:
        save_file(inputs_stats, folder / "inputs_stats.safetensors")
        save_file(kv_stats, folder / "kv_stats.safetensors")
        (folder / "calibration.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return destination


def _take_down(number: int, inputs: LayerInputs, inputs_stats: dict[str, Tensor], kv_stats: dict[str, Tensor]) -> None:
    for matrix in inputs.sums:
        stats, name = inputs.stats(matrix), f"layers.{number}.{matrix}"
        inputs_stats[f"{name}.mean_abs"] = stats.mean_abs.cpu()
        inputs_stats[f"{name}.largest_abs"] = stats.largest_abs.cpu()
    for name, (low, high) in inputs.kv_ranges.items():
        kv_stats[f"layers.{number}.{name}.min"] = low.cpu()
        kv_stats[f"layers.{number}.{name}.max"] = high.cpu()
