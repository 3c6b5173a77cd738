"""From a model folder and a text to one layer after another, with what its matrices are given.

    folder ─ open_source ─▶ weights ┐
    text ─── make_tokens ─▶ tokens ─┴─ embedding ─▶ hidden ─ layer 0 ─▶ hidden ─ layer 1 ─▶ …     visits

Lesson: 4 (why activations tell which channels matter)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from lmcourse.errors import CalibrationError, ConfigError, UnsupportedModelError
from lmcourse.layers import Embedding
from lmcourse.lite.awq_job import AwqJob
from lmcourse.lite.calibration_text import CalibrationText, draw_samples
from lmcourse.lite.held_tensors import read_layer
from lmcourse.lite.layer_inputs import LayerInputs, LayerRunner
from lmcourse.lite.two_paths import TwoPaths
from lmcourse.models import WeightStream, detect_format, open_weights, separate_experts
from lmcourse.text.tokenizer import Tokenizer

__all__ = ["Visit", "layers_with_inputs", "make_tokens", "open_source", "visits"]


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
    return separate_experts(open_weights(source, dtype=dtype, device=device)[0])


def make_tokens(weights: WeightStream, text: CalibrationText, job: AwqJob) -> Tensor:
    """int64 [samples, seqlen] of the model's tokens; ConfigError or CalibrationError where they cannot be had."""
    if job.calib_seqlen > weights.spec.max_context:
        raise ConfigError(
            "calibration samples are longer than the model's context",
            expected=f"at most {weights.spec.max_context}", got=job.calib_seqlen, where="--calib-seqlen",
        )  # fmt: skip
    tokenizer = Tokenizer.from_folder(weights.checkpoint.folder)
    return draw_samples(text, tokenizer, samples=job.calib_samples, seqlen=job.calib_seqlen)


def layers_with_inputs(weights: WeightStream, tokens: Tensor, job: AwqJob) -> Iterator[tuple[int, LayerInputs]]:
    """Run the model layer by layer over tokens [samples, seqlen], and tell what its matrices are given."""
    for visit in visits(weights, tokens, replace(job, method=job.method.plain())):
        assert visit.inputs is not None, "no layer is skipped"
        yield visit.number, visit.inputs


@dataclass(frozen=True)
class Visit:
    """A layer, run in the model as it was."""

    number: int
    inputs: LayerInputs | None  # None: the layer is done already
    paths: TwoPaths


def visits(
    weights: WeightStream, tokens: Tensor, job: AwqJob, *, skip: Callable[[int], bool] = lambda number: False
) -> Iterator[Visit]:
    """Run the model layer by layer over tokens [samples, seqlen]; skip says which layers are done already."""
    samples, seqlen = tokens.shape
    runner = LayerRunner(weights.spec, num_samples=samples, seqlen=seqlen, batch_size=job.batch_size)
    table = Embedding(weights.spec.vocab, weights.spec.hidden, weights.spec.embedding_scale)
    table.weight = torch.nn.Parameter(weights.weight("embedding.weight"), requires_grad=False)
    hidden = table(tokens.flatten().to(weights.device))
    del table
    paths = TwoPaths(weights, runner, hidden, drifts=job.method.compensates)
    for number in range(weights.spec.num_layers):
        inputs = None if skip(number) else LayerInputs()
        paths.at(number, hidden.clone())
        try:
            runner.run(read_layer(weights, number), hidden, inputs=inputs)
        except CalibrationError as error:
            where = f"layer {number}, {error.where}"
            raise CalibrationError(
                error.what, expected=error.expected, got=error.got, where=where, next_step=error.next_step
            ) from error
        yield Visit(number, inputs, paths)
