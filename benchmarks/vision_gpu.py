"""Time to the first token of a question about one picture, and where it goes: host, tower, projector, prefill.

    python benchmarks/vision_gpu.py --model dummy:llava-1.6-7b --size 1344x672 --output vision.json

Every measured picture is new, so that no features are found again. The device's parts are timed with events around
them, recorded as the engine records them where it does; the whole is `pipe((text, picture))` until its first token.
Checked first: features in the model's dtype against float32, and recorded passes against launched ones.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from lmcourse import TurbomindEngineConfig, pipeline
from lmcourse.bench.report import current_commit, describe_machine
from lmcourse.engine.graphs import choose_recorder
from lmcourse.pipeline import Pipeline
from lmcourse.text.hub import find_model
from lmcourse.vision import load_encoder


def draw(width: int, height: int, seed: int) -> Image.Image:
    """A picture that nobody has seen."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def median_ms(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Of the device's time, or of the clock's on a CPU."""
    times = []
    for _ in range(repeats + 3):
        if device.type == "cuda":
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            work()
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end))
        else:
            began = time.perf_counter()
            work()
            times.append(1e3 * (time.perf_counter() - began))
    return round(statistics.median(times[3:]), 3)


def check(pipe: Pipeline, folder: Path, size: tuple[int, int]) -> dict[str, float]:
    """Largest differences of features, as a share of the largest feature."""
    encoder = pipe.engine.encoder
    device = encoder.eyes.tower.positions.device
    ready = [encoder.prepare(draw(*size, seed)) for seed in (1, 2)]
    plain = encoder.encode(ready[:1])[0].float()
    exact = load_encoder(folder, dtype=torch.float32, device=device).encode(ready[:1])[0]
    told = {"half_against_float32": ((plain - exact).abs().max() / exact.abs().max()).item()}
    recorder = choose_recorder(pipe.engine.config, device)
    if recorder is not None:
        for _ in range(3):
            encoder.encode(ready[1:], recorder)
        again = encoder.encode(ready[:1], recorder)[0].float()
        told["recorded_against_launched"] = ((again - plain).abs().max() / plain.abs().max()).item()
    return {name: round(value, 6) for name, value in told.items()}


def measure_parts(pipe: Pipeline, size: tuple[int, int], repeats: int) -> dict[str, float]:
    """Milliseconds of each part alone."""
    encoder, config = pipe.engine.encoder, pipe.engine.config
    eyes = encoder.eyes
    device = eyes.tower.positions.device
    picture = draw(*size, 3)
    hosts = []
    for _ in range(repeats):
        began = time.perf_counter()
        ready = encoder.prepare(picture)
        _ = ready.key
        hosts.append(1e3 * (time.perf_counter() - began))
    pixels = torch.from_numpy(ready.tiles.pixels).to(device)
    recorder = choose_recorder(config, device)
    with torch.inference_mode():
        normal = eyes.normalise(pixels)
        seen = eyes.look(normal).clone()
        steps = {
            "tower": lambda: eyes.look(eyes.normalise(pixels)),
            "projector": lambda: eyes.project(seen),
            "both": lambda: eyes(pixels),
        }
        told = {"host": round(statistics.median(hosts), 3)}
        for name, work in steps.items():
            if recorder is None:
                told[name] = median_ms(work, device, repeats)
            else:
                told[name] = median_ms(lambda n=name, w=work: recorder.run((n, "part"), w), device, repeats)
                told[f"{name}_launched"] = median_ms(work, device, repeats)
        told["encode"] = median_ms(lambda: encoder.encode([ready], recorder), device, repeats)
    return told


def measure_first_token(pipe: Pipeline, size: tuple[int, int], repeats: int) -> dict[str, object]:
    """Seconds of pipe((text, picture)) until one token, pictures new each time; then text of the same length alone."""
    question, wholes, texts = "describe this image", [], []
    pictures = [draw(*size, 100 + n) for n in range(repeats + 4)]
    for picture in pictures:
        began = time.perf_counter()
        response = pipe((question, picture), max_new_tokens=1, ignore_eos=True)
        wholes.append(1e3 * (time.perf_counter() - began))
    for n in range(repeats + 4):
        ids = {"prompt_token_ids": [3 + (7 * i + n) % 200 for i in range(response.input_token_len)]}
        began = time.perf_counter()
        pipe(ids, max_new_tokens=1, ignore_eos=True)
        texts.append(1e3 * (time.perf_counter() - began))
    return {
        "prompt_tokens": response.input_token_len,
        "first_token": round(statistics.median(wholes[4:]), 2),
        "first_token_all": [round(value, 2) for value in wholes[4:]],
        "text_of_same_length": round(statistics.median(texts[4:]), 2),
    }


def main() -> None:
    """Check, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="dummy:llava-1.6-7b", help="name or folder (default: %(default)s)")
    parser.add_argument("--size", default="1344x672", help="pixels, width x height (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=9, help="of each measurement (default: %(default)s)")
    parser.add_argument("--part", choices=("all", "check", "times"), default="all", help="(default: %(default)s)")
    parser.add_argument("--output", type=Path, help="JSON file (default: none)")
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    folder = find_model(args.model)
    with pipeline(args.model, backend_config=TurbomindEngineConfig(cache_max_entry_count=0.3)) as pipe:
        result = {
            "benchmark": "vision",
            "model": args.model,
            "picture": args.size,
            "commit": current_commit(),
            "dtype": str(pipe.engine.encoder.eyes.tower.positions.dtype).removeprefix("torch."),
            "machine": describe_machine(),
        }
        if args.part != "times":
            result["differences"] = check(pipe, folder, (width, height))
        result |= measure_first_token(pipe, (width, height), args.repeats)
        if args.part != "check":
            result["milliseconds"] = measure_parts(pipe, (width, height), args.repeats)
    sys.stdout.write(json.dumps({key: value for key, value in result.items() if key != "machine"}, indent=1) + "\n")
    if args.output:
        args.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
