"""`lmcourse lite auto_awq | calibrate`: run a model over calibration text, to make it smaller or to look inside.

LMDeploy's flags and defaults, but for --calib-dataset: the bundled text, so that nothing needs a network.

Lesson: 4 (quantise tiny-chat)
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from lmcourse.cli.flags import Flag, add_flags

__all__ = ["add_parser", "run_auto_awq", "run_calibrate"]

_EXAMPLES = """examples:
  lmcourse lite auto_awq tiny-chat --calib-samples 16 --calib-seqlen 256 --work-dir tiny-chat-4bit
  lmcourse lite auto_awq ~/internlm2-chat-1_8b --calib-dataset 'ptb' --calib-samples 128 --calib-seqlen 1024 \\
      --w-bits 4 --w-group-size 128 --work-dir ~/internlm2-chat-1_8b-4bit
  lmcourse chat ~/internlm2-chat-1_8b-4bit
"""

_CALIBRATION_FLAGS = (
    Flag("--work-dir", "new folder for the output", "FOLDER", Path, Path("work_dir")),
    Flag("--calib-dataset", "text to calibrate with: lmcourse (bundled), ptb, c4, wikitext2, pileval, or a text file",
         "SET", default="lmcourse"),
    Flag("--calib-samples", "samples of text", "N", int, 128),
    Flag("--calib-seqlen", "length of a sample", "TOKENS", int, 2048),
    Flag("--batch-size", "samples that run through a layer at once; less takes less memory", "N", int, 8),
    Flag("--device", "where to compute", choices=("cpu", "cuda"), shown="cuda if there is one"),
)  # fmt: skip
_QUANTISATION_FLAGS = (
    Flag("--w-bits", "bits of a weight; AWQ checkpoints have 4", "BITS", int, 4),
    Flag("--w-group-size", "weights that share a scale; must divide the model's sizes", "N", int, 128),
    Flag("--head-bits", "bits of the head; 8 is read by this engine and by no other", "BITS", int, 16),
    Flag("--method", "search: as --search-scale; smooth: a fixed rule; rtn: round to nearest, without scales",
         choices=("smooth", "search", "rtn"), shown="smooth"),
)  # fmt: skip


def add_parser(subparsers: Any) -> None:
    """Adds `lite` and its kinds."""
    parser: argparse.ArgumentParser = subparsers.add_parser("lite", help="make a model smaller")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="auto_awq | calibrate")
    awq = _add_kind(
        kinds,
        "auto_awq",
        "quantise a model's weights to 4 bits",
        "Store the matrices of a Hugging Face model in 4 bits, in the common AWQ layout. It works layer by layer and "
        "needs little memory; interrupted, the same command goes on where it stopped.",
    )
    add_flags(awq, _QUANTISATION_FLAGS)
    awq.add_argument("--w-sym", action="store_true",
                     help="grids symmetric around zero, which cost some accuracy (default: off)")  # fmt: skip
    awq.add_argument("--search-scale", action="store_true",
                     help="search the scales, and clip, as AWQ does; slower and better (default: off)")  # fmt: skip
    awq.add_argument("--no-compensation", action="store_true",
                     help="round every weight by itself; quicker and worse (default: off)")  # fmt: skip
    awq.set_defaults(func=run_auto_awq)
    calibrate = _add_kind(
        kinds,
        "calibrate",
        "write down what flows through a model",
        "Run calibration text through a Hugging Face model and write the statistics of activations, keys and values.",
    )
    calibrate.set_defaults(func=run_calibrate)


def _add_kind(kinds: Any, name: str, short: str, long: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = kinds.add_parser(
        name,
        help=short,
        description=long,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="model folder or name")
    add_flags(parser, _CALIBRATION_FLAGS)
    return parser


def run_auto_awq(args: argparse.Namespace) -> int:
    """Quantise; progress goes to stderr."""
    from lmcourse.lite import METHODS, auto_awq
    from lmcourse.quant import QuantSettings
    from lmcourse.text.hub import find_model

    name = args.method or ("search" if args.search_scale else "smooth")
    settings = QuantSettings(args.w_bits, args.w_group_size, args.w_sym)
    method = METHODS[name].plain() if args.no_compensation else METHODS[name]
    job = _job(args, settings=settings, method=method, head_bits=args.head_bits)
    source = find_model(args.model)
    with _Progress("quantise") as progress:
        result = auto_awq(source, args.work_dir, job, device=args.device, watch=progress)
    if result.resumed_layers:
        print(f"{result.resumed_layers} layers were done already by an earlier run")
    sizes = f"{result.source_bytes / 2**20:.1f} MiB of weights became {result.stored_bytes / 2**20:.1f} MiB"
    print(f"{sizes} in {result.seconds:.0f} s ({job.method.what})")
    print(f"next: lmcourse chat {shlex.quote(str(result.folder))}")
    return 0


def run_calibrate(args: argparse.Namespace) -> int:
    """Write statistics; progress goes to stderr."""
    from lmcourse.lite import calibrate
    from lmcourse.text.hub import find_model

    with _Progress("calibrate") as progress:
        folder = calibrate(find_model(args.model), args.work_dir, _job(args), device=args.device, watch=progress)
    print(f"inputs_stats.safetensors, kv_stats.safetensors and calibration.json are in {folder}")
    return 0


def _job(args: argparse.Namespace, **more: Any) -> Any:
    from lmcourse.lite import AwqJob

    return AwqJob(args.calib_dataset, args.calib_samples, args.calib_seqlen, args.batch_size, **more)


class _Progress:
    """A bar with the time left, one step a layer."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._bar: Any = None

    def __enter__(self) -> _Progress:
        return self

    def __call__(self, done: int, total: int) -> None:
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(total=total, desc=self._what, unit="layer", file=sys.stderr)
        self._bar.update(done - self._bar.n)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
