"""auto_awq: a model folder → a folder with 4-bit weights in the common AWQ layout, layer by layer.

    tokens → embedding → [ read layer n → run it, taking notes → quantise → write ] for each n → put together

At no time is more than one layer of the model in memory, a few times over, besides the hidden states of the calibration
samples. What gives the scales comes from unquantised layers, as in AWQ; what rounding makes good, from quantised ones
(two_paths.py). Interrupted, it goes on where it stopped: finished layers are run again, but not searched again.

Lesson: 4 (quantise tiny-chat)
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from lmcourse.engine.settings import choose_device
from lmcourse.lite.awq_job import AwqJob, check_head, check_shapes
from lmcourse.lite.calibration_text import CalibrationText, find_text
from lmcourse.lite.layer_inputs import has_experts
from lmcourse.lite.layer_job import LayerJob
from lmcourse.lite.layer_quantise import quantise_layer
from lmcourse.lite.visits import make_tokens, open_source, visits
from lmcourse.lite.work_folder import Unfinished, check_destination, finish
from lmcourse.models import LanguagePart, WeightStream, read_json, stored_tensors
from lmcourse.quant import StoredInt8

__all__ = ["AwqResult", "auto_awq"]

Watch = Callable[[int, int], None]  # layers done, layers in all


@dataclass(frozen=True)
class AwqResult:
    """What was made."""

    folder: Path
    source_bytes: int
    stored_bytes: int
    seconds: float
    resumed_layers: int


def auto_awq(
    source: Path, destination: Path, job: AwqJob | None = None, *, device: str | None = None, watch: Watch | None = None
) -> AwqResult:
    """Quantise a Hugging Face folder; raises before anything is written where the request cannot be met."""
    started, job = time.perf_counter(), job or AwqJob()
    destination = Path(destination).expanduser().resolve()
    place = choose_device(device)
    weights = open_source(source, place)
    check_destination(destination, weights.checkpoint.folder.resolve())
    check_shapes(weights.spec, job.settings)
    check_head(weights, job.head_bits)
    text = find_text(job.calib_dataset)
    tokens = make_tokens(weights, text, job)
    unfinished = Unfinished(destination, _fingerprint(weights, job, tokens))
    resumed = len(unfinished.files())
    try:
        _quantise_layers(weights, tokens, job, unfinished, watch)
        rest = unfinished.folder / "rest.safetensors"
        save_file(_rest(weights, job.head_bits), rest)
        rename = weights.checkpoint.stored_name if isinstance(weights.checkpoint, LanguagePart) else str
        config = _config(weights, job, text, unfinished.seldom())
        finish(destination, weights.checkpoint.folder, unfinished, rest, config, rename)
    except Exception:  # not Ctrl-C: what is done waits for the next try
        unfinished.remove()
        raise
    stored = sum(file.stat().st_size for file in destination.glob("*.safetensors"))
    checkpoint = weights.checkpoint
    given = checkpoint.whole_bytes if isinstance(checkpoint, LanguagePart) else checkpoint.num_bytes
    return AwqResult(destination, given, stored, time.perf_counter() - started, resumed)


def _quantise_layers(
    weights: WeightStream, tokens: Tensor, job: AwqJob, unfinished: Unfinished, watch: Watch | None
) -> None:
    for visit in visits(weights, tokens, job, skip=unfinished.has):
        paths = visit.paths if job.method.compensates or has_experts(weights.spec, visit.number) else None
        if visit.inputs is not None:
            layer_job = LayerJob(weights.spec, weights.rules, visit.number, job.method, job.grid)
            small = quantise_layer(layer_job, _stored_layer(weights, visit.number), visit.inputs, paths)
            unfinished.put(visit.number, small.tensors, small.seldom)
        elif paths is not None:
            paths.leave(unfinished.tensors(visit.number))
        if watch is not None:
            watch(visit.number + 1, weights.spec.num_layers)


def _stored_layer(weights: WeightStream, number: int) -> dict[str, Tensor]:
    names = [name for stored in weights.layer_tensors(number) for name in stored.sources]
    return {name: weights.checkpoint.read(name).to(weights.device) for name in names}


def _rest(weights: WeightStream, head_bits: int) -> dict[str, Tensor]:
    """Embedding, final norm and head, as float16; the head as int8 where that was asked for."""
    inside = {name for number in range(weights.spec.num_layers) for stored in weights.layer_tensors(number)
              for name in stored.sources}  # fmt: skip
    names = [source for name in weights.names for source in stored_tensors(weights.rules, name).sources]
    kept = {name: weights.checkpoint.read(name) for name in names if name not in inside}
    head = stored_tensors(weights.rules, "head.weight").sources[0]
    out = {name: tensor.half() for name, tensor in kept.items() if head_bits == 16 or name != head}
    if head_bits == 8:
        stem = head.removesuffix("weight")
        out |= {stem + leaf: tensor.cpu() for leaf, tensor in StoredInt8.round(kept[head])._asdict().items()}
    if isinstance(weights.checkpoint, LanguagePart):  # the eyes stay as they are
        out |= {name: tensor.half() for name, tensor in weights.checkpoint.read_others().items()}
    return out


def _fingerprint(weights: WeightStream, job: AwqJob, tokens: Tensor) -> Mapping[str, Any]:
    """What finished layers depend on."""
    files = sorted({info.file for info in weights.checkpoint.tensors.values()})
    return {
        "source": [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files],
        "tokens": hashlib.sha256(tokens.numpy().tobytes()).hexdigest(),
        "method": [job.method.name, job.method.compensates],
        "settings": dataclasses.asdict(job.grid),
        "head_bits": job.head_bits,
        "dtype": str(weights.dtype),
    }


def _routers(weights: WeightStream) -> list[str]:
    """Stored names of what stays in 16 bits within the layers: whole, for readers look for them anywhere in a name."""
    names = (f"layers.{number}.mlp.router.weight" for number in range(weights.spec.num_layers)
             if has_experts(weights.spec, number))  # fmt: skip
    return [source.removesuffix(".weight") for name in names for source in stored_tensors(weights.rules, name).sources]


def _config(
    weights: WeightStream, job: AwqJob, text: CalibrationText, seldom: Mapping[str, Sequence[int]]
) -> dict[str, Any]:
    config = read_json(weights.checkpoint.folder / "config.json")
    for key in ("torch_dtype", "dtype"):
        if key in config:
            config[key] = "float16"
    calibration = {
        "dataset": text.asked,
        "samples": job.calib_samples,
        "seqlen": job.calib_seqlen,
        "method": job.method.what,
    }
    if job.grid.bits != job.settings.bits:
        calibration["grid_bits"] = job.grid.bits
    if seldom:
        calibration["experts_rounded_to_nearest"] = dict(seldom)
    if text.instead is not None:
        calibration["instead"] = f"{text.asked} could not be had; {text.instead} were used"
    quantisation = {
        "quant_method": "awq",
        "version": "gemm",
        "bits": job.settings.bits,
        "group_size": job.settings.group_size,
        "zero_point": True,
    }
    if weights.spec.experts is not None:
        quantisation["modules_to_not_convert"] = _routers(weights)
    if job.head_bits != 16:
        quantisation["head_bits"] = job.head_bits
    return config | {"quantization_config": quantisation, "lmcourse_calibration": calibration}
