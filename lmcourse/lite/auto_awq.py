"""auto_awq: a model folder → a folder with 4-bit weights in the common AWQ layout, layer by layer.

    tokens → embedding → [ read layer n → run it, taking notes → quantise → write ] for each n → put together

At no time is more than one layer of the model in memory, besides the hidden states of the calibration samples. What
later layers see comes from unquantised ones, as in AWQ. Interrupted, it goes on where it stopped: finished layers are
run again, which is quick, but not searched again.

Lesson: 4 (quantise tiny-chat)
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from lmcourse.engine.settings import choose_device
from lmcourse.errors import CalibrationError, ConfigError, UnsupportedModelError
from lmcourse.layers import Embedding
from lmcourse.lite.calibration_text import CalibrationText, draw_samples, find_text
from lmcourse.lite.layer_inputs import LayerInputs, LayerRunner
from lmcourse.lite.layer_quantise import LayerJob, quantise_layer
from lmcourse.lite.methods import SMOOTH, Method
from lmcourse.lite.work_folder import Unfinished, check_destination, finish
from lmcourse.models import (
    DecoderLayer,
    LanguagePart,
    WeightStream,
    detect_format,
    make_layer,
    open_weights,
    read_json,
    stored_tensors,
)
from lmcourse.quant import QuantSettings, StoredInt8
from lmcourse.spec import ModelSpec
from lmcourse.text.tokenizer import Tokenizer

__all__ = ["AwqJob", "AwqResult", "auto_awq", "layers_with_inputs", "make_tokens", "open_source"]

Watch = Callable[[int, int], None]  # layers done, layers in all


@dataclass(frozen=True)
class AwqJob:
    """What auto_awq is asked for; defaults are LMDeploy 0.3.0's, but for the bundled text."""

    calib_dataset: str = "lmcourse"
    calib_samples: int = 128
    calib_seqlen: int = 2048
    batch_size: int = 8
    settings: QuantSettings = field(default_factory=QuantSettings)
    method: Method = SMOOTH
    head_bits: int = 16  # 8: an int8 head, which this engine reads and others do not
    grid_bits: int | None = None  # a coarser grid in the same 4 stored bits: shows what 3 bits lose, saves nothing

    def __post_init__(self) -> None:
        for name in ("calib_samples", "calib_seqlen", "batch_size"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ConfigError("the number is too small", expected="1 or more", got=repr(value), where=name)
        if self.settings.bits != 4:
            raise ConfigError(
                "AWQ checkpoints hold 4-bit weights", expected="--w-bits 4", got=self.settings.bits, where="--w-bits"
            )
        if self.head_bits not in (8, 16):
            raise ConfigError("a head is not stored in so many bits", expected="16 or 8", got=self.head_bits,
                              where="--head-bits")  # fmt: skip
        if self.grid_bits is not None and self.grid_bits not in (2, 3, 4):
            raise ConfigError("4 stored bits hold no such grid", expected="2, 3 or 4", got=self.grid_bits,
                              where="grid_bits")  # fmt: skip

    @property
    def grid(self) -> QuantSettings:
        """What weights are rounded to."""
        return dataclasses.replace(self.settings, bits=self.grid_bits or self.settings.bits)


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
    _check_shapes(weights.spec, job.settings)
    _check_head(weights, job.head_bits)
    text = find_text(job.calib_dataset)
    tokens = make_tokens(weights, text, job)
    unfinished = Unfinished(destination, _fingerprint(weights, job, tokens))
    resumed = len(unfinished.files())
    try:
        for number, inputs in layers_with_inputs(weights, tokens, job, skip=unfinished.has):
            if inputs is not None:
                layer_job = LayerJob(weights.spec, weights.rules, number, job.method, job.grid)
                unfinished.put(number, quantise_layer(layer_job, _stored_layer(weights, number), inputs))
            if watch is not None:
                watch(number + 1, weights.spec.num_layers)
        rest = unfinished.folder / "rest.safetensors"
        save_file(_rest(weights, job.head_bits), rest)
        rename = weights.checkpoint.stored_name if isinstance(weights.checkpoint, LanguagePart) else str
        finish(destination, weights.checkpoint.folder, unfinished, rest, _config(weights, job, text), rename)
    except Exception:  # not Ctrl-C: what is done waits for the next try
        unfinished.remove()
        raise
    stored = sum(file.stat().st_size for file in destination.glob("*.safetensors"))
    checkpoint = weights.checkpoint
    given = checkpoint.whole_bytes if isinstance(checkpoint, LanguagePart) else checkpoint.num_bytes
    return AwqResult(destination, given, stored, time.perf_counter() - started, resumed)


def open_source(source: Path, device: torch.device) -> WeightStream:
    """The unquantised weights of a folder, in the dtype to compute with; UnsupportedModelError if they are packed."""
    source = Path(source).expanduser()
    found = detect_format(source)
    if found != "hf":
        raise UnsupportedModelError(
            "this model is quantised already" if found == "awq" else "this model is in the engine's own format",
            expected="a Hugging Face folder with plain weights",
            got=f"{found} format",
            where=source,
            next_step="give the folder that this one was made from",
        )
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    return open_weights(source, dtype=dtype, device=device)[0]


def layers_with_inputs(
    weights: WeightStream, tokens: Tensor, job: AwqJob, *, skip: Callable[[int], bool] = lambda number: False
) -> Iterator[tuple[int, LayerInputs | None]]:
    """Run the model layer by layer over tokens [samples, seqlen]; None for layers that are skipped, though run."""
    samples, seqlen = tokens.shape
    runner = LayerRunner(weights.spec, num_samples=samples, seqlen=seqlen, batch_size=job.batch_size)
    table = Embedding(weights.spec.vocab, weights.spec.hidden, weights.spec.embedding_scale)
    table.weight = torch.nn.Parameter(weights.weight("embedding.weight"), requires_grad=False)
    hidden = table(tokens.flatten().to(weights.device))
    del table
    for number in range(weights.spec.num_layers):
        inputs = None if skip(number) else LayerInputs()
        try:
            runner.run(_read_layer(weights, number), hidden, inputs=inputs)
        except CalibrationError as error:
            where = f"layer {number}, {error.where}"
            raise CalibrationError(
                error.what, expected=error.expected, got=error.got, where=where, next_step=error.next_step
            ) from error
        yield number, inputs


def _read_layer(weights: WeightStream, number: int) -> DecoderLayer:
    with torch.device("meta"):
        layer = make_layer(weights.spec, number)
    for stored, weight in weights.layer(number):
        module, leaf = stored.name.split(".", 2)[2].rsplit(".", 1)
        setattr(layer.get_submodule(module), leaf, torch.nn.Parameter(weight, requires_grad=False))
    return layer


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


def _check_head(weights: WeightStream, head_bits: int) -> None:
    if head_bits == 16:
        return
    rule = None if weights.spec.tie_embeddings else stored_tensors(weights.rules, "head.weight").rule
    if rule is None or rule.compute is not None or weights.spec.hidden % 4:
        raise ConfigError(
            "this model's head cannot be stored in 8 bits",
            expected="a head of its own, whose rows are taken as they are",
            got="one shared with the embedding" if rule is None else "rows that are computed with, or not in fours",
            where="--head-bits",
            next_step="leave the head in 16 bits",
        )


def make_tokens(weights: WeightStream, text: CalibrationText, job: AwqJob) -> Tensor:
    """int64 [samples, seqlen] of the model's tokens; ConfigError or CalibrationError where they cannot be had."""
    if job.calib_seqlen > weights.spec.max_context:
        raise ConfigError(
            "calibration samples are longer than the model's context",
            expected=f"at most {weights.spec.max_context}", got=job.calib_seqlen, where="--calib-seqlen",
        )  # fmt: skip
    tokenizer = Tokenizer.from_folder(weights.checkpoint.folder)
    return draw_samples(text, tokenizer, samples=job.calib_samples, seqlen=job.calib_seqlen)


def _check_shapes(spec: ModelSpec, settings: QuantSettings) -> None:
    if spec.experts is not None:
        raise UnsupportedModelError(
            "experts are not quantised here yet", expected="a model without experts", got=spec.family,
            next_step="4-bit checkpoints of such models, made elsewhere, can be loaded",
        )  # fmt: skip
    widths = {
        "hidden": spec.hidden,
        "num_heads x head_dim": spec.num_heads * spec.head_dim,
        "intermediate": spec.intermediate,
    }
    for name, width in widths.items():
        if width % settings.group_size or settings.group_size % 8:
            raise ConfigError(
                f"the group size does not divide the model's {name}",
                expected=f"a multiple of 8 that divides {', '.join(map(str, sorted(set(widths.values()))))}",
                got=settings.group_size,
                where="--w-group-size",
                next_step="64 or 32 fit more models, at slightly more memory",
            )


def _fingerprint(weights: WeightStream, job: AwqJob, tokens: Tensor) -> Mapping[str, Any]:
    """What finished layers depend on."""
    files = sorted({info.file for info in weights.checkpoint.tensors.values()})
    return {
        "source": [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files],
        "tokens": hashlib.sha256(tokens.numpy().tobytes()).hexdigest(),
        "method": job.method.name,
        "settings": dataclasses.asdict(job.grid),
        "head_bits": job.head_bits,
        "dtype": str(weights.dtype),
    }


def _config(weights: WeightStream, job: AwqJob, text: CalibrationText) -> dict[str, Any]:
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
    if text.instead is not None:
        calibration["instead"] = f"{text.asked} could not be had; {text.instead} were used"
    quantisation = {
        "quant_method": "awq",
        "version": "gemm",
        "bits": job.settings.bits,
        "group_size": job.settings.group_size,
        "zero_point": True,
    }
    if job.head_bits != 16:
        quantisation["head_bits"] = job.head_bits
    return config | {"quantization_config": quantisation, "lmcourse_calibration": calibration}
