"""The whole engine on one GPU: are its modes right, how fast is it, and does the host ever keep the device waiting?

    python benchmarks/engine_gpu.py                      everything, about 2 minutes; results in ./engine_gpu.json
    python benchmarks/engine_gpu.py SECTION …            some of it: modes decode prefill mixed switches
    OUT=/somewhere SECONDS_LEFT=150 python benchmarks/engine_gpu.py     results there; starts nothing new after 150 s

InternLM2-1.8B's shape in fp16 with random weights, token ids in and out, greedy unless said otherwise. A decode rate is
256 · B / (t(257 outputs) - t(1 output)) after prompts of 128 tokens; «host busy» is the time of a step that the host
does not spend waiting for the device.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import sys
import time
import traceback
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from lmcourse.bundled import model_path
from lmcourse.config import GenerationConfig, TurbomindEngineConfig
from lmcourse.engine import Engine, launch
from lmcourse.kernels.advance import Field
from lmcourse.kernels.draw import draw, draw_reference
from lmcourse.models import Decoder
from lmcourse.spec import ModelSpec

STARTED, LIMIT_SECONDS = time.perf_counter(), float(os.environ.get("SECONDS_LEFT", "1e9"))
SPEC = ModelSpec("internlm2", 2048, 24, 16, 8, 128, 8192, 92544, 32768)
SMALL = ModelSpec("internlm2", 256, 2, 4, 2, 64, 512, 5000, 32768)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
FAST = bool(os.environ.get("FAST"))  # the modes that are on by default, four batch sizes
RESULTS: dict = {}
LINES: list[str] = []
WAITED = [0.0]


def say(line: str) -> None:
    LINES.append(line)
    sys.stdout.write(f"{time.perf_counter() - STARTED:6.1f} s  {line}\n")
    sys.stdout.flush()


def main() -> None:
    wait = launch.Fetch.wait

    def timed_wait(fetch: launch.Fetch) -> list[torch.Tensor]:
        start = time.perf_counter()
        copies = wait(fetch)
        WAITED[0] += time.perf_counter() - start
        return copies

    launch.Fetch.wait = timed_wait
    if DEVICE.type == "cuda":
        RESULTS["machine"] = {
            "gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "date": time.strftime("%Y-%m-%d"),
        }  # fmt: skip
        say(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    sections = {"modes": check_modes, "decode": time_decode, "prefill": time_prefill, "mixed": time_mixed}
    sections |= {"switches": time_switches, "draw": check_draw}
    engines: list[Engine] = []
    for name in sys.argv[1:] or sections:
        if time.perf_counter() - STARTED > LIMIT_SECONDS:
            say(f"no time left for {name}")
            continue
        try:
            if name in ("modes", "draw"):
                sections[name]()
            else:
                if not engines:
                    engines.append(make_engine())
                sections[name](engines[0])
        except Exception as error:
            say(f"FAILED {name}: {type(error).__name__}: {error}"[:400])
            sys.stdout.write(traceback.format_exc()[-4000:])
        RESULTS["lines"] = LINES
        text = json.dumps(RESULTS, indent=1, ensure_ascii=False)
        Path(os.environ.get("OUT", "."), "engine_gpu.json").write_text(text, encoding="utf-8")
    sys.stdout.write("\n".join(["", *LINES, ""]))


def make_engine(**settings) -> Engine:
    spec = SPEC if DEVICE.type == "cuda" else SMALL
    start = time.perf_counter()
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float16 if DEVICE.type == "cuda" else torch.float32)
    with DEVICE:
        decoder = Decoder(spec)
    torch.set_default_dtype(torch.float32)
    for name, weight in decoder.named_parameters():
        weight.data.fill_(1) if "norm" in name else weight.data.normal_(0, 0.02)
    config = TurbomindEngineConfig(**{"session_len": 4096, "max_batch_size": 256, **settings})
    engine = Engine(decoder, None, config)
    say(f"engine made in {time.perf_counter() - start:.1f} s: {engine}")
    return engine


def drain(engine: Engine, most_seconds: float = 60.0) -> tuple[float, int, int, float]:
    """(seconds, tokens, steps, seconds of waiting) until nothing is left."""
    WAITED[0] = 0.0
    start, tokens, steps = time.perf_counter(), 0, 0
    while engine.has_work:
        tokens += sum(len(output.token_ids) for output in engine.step())
        steps += 1
        if time.perf_counter() - start > most_seconds:
            raise TimeoutError(f"{tokens} tokens in {most_seconds} s")
    return time.perf_counter() - start, tokens, steps, WAITED[0]


def draw_prompt(length: int) -> list[int]:
    return [random.randrange(4, 4000) for _ in range(length)]


def check_modes() -> None:
    """tiny-chat in float32: the CPU's tokens, in every mode."""
    folder, rng = model_path("tiny-chat"), random.Random(time.time())
    prompts = [[rng.randrange(4, 4000) for _ in range(rng.choice((1, 5, 40, 200)))] for _ in range(24)]
    greedy = [GenerationConfig(max_new_tokens=rng.randint(1, 60)) for _ in prompts]
    seeded = [
        GenerationConfig(max_new_tokens=30, random_seed=seed, top_k=seed % 3 * 20, top_p=0.95, temperature=1.1,
                         repetition_penalty=1.1 if seed % 5 == 4 else 1.0, logprobs=2 if seed % 7 == 6 else None)
        for seed in range(len(prompts))
    ]  # fmt: skip
    wanted = {}
    with Engine.from_folder(folder, TurbomindEngineConfig(dtype="float32"), device="cpu") as engine:
        for name, gens in (("greedy", greedy), ("seeded", seeded)):
            wanted[name] = answer(engine, prompts, gens)
    sizes = {"roomy": {}, "tight": {"cache_max_entry_count": 20, "session_len": 300, "max_prefill_token_num": 100}}
    for overlap in (True,) if FAST else (True, False):
        for graphs in (True,) if FAST else (True, False):
            for size, settings in sizes.items():
                config = TurbomindEngineConfig(dtype="float32", overlap=overlap, cuda_graphs=graphs, **settings)
                with Engine.from_folder(folder, config, device=str(DEVICE)) as engine:
                    parts = []
                    for name, gens in (("greedy", greedy), ("seeded", seeded)):
                        told = answer(engine, prompts, gens)
                        same = sum(map(list.__eq__, told, wanted[name]))
                        parts.append(f"{name} {same}/{len(prompts)}")
                        key = f"{name} overlap={overlap} graphs={graphs} {size}"
                        RESULTS.setdefault("modes", {})[key] = [same, len(prompts)]
                    preempted = engine.stats().num_preemptions
                say(f"overlap={overlap} graphs={graphs} {size}: {', '.join(parts)} as on CPU, {preempted} preemptions")


def answer(engine: Engine, prompts: list, gens: list) -> list[list[int]]:
    ids = [engine.add(prompt, gen) for prompt, gen in zip(prompts, gens, strict=True)]
    told: dict[int, list[int]] = {key: [] for key in ids}
    while engine.has_work:
        for output in engine.step():
            told[output.request_id] += output.token_ids
        engine.check()
    return [told[key] for key in ids]


def run_batch(engine: Engine, count: int, num_new: int, **rule) -> tuple[float, int, int, float]:
    for seed in range(count):
        gen = GenerationConfig(
            max_new_tokens=num_new, ignore_eos=True, **({"random_seed": seed} if rule else {}), **rule
        )
        engine.add(draw_prompt(128), gen)
    return drain(engine)


def time_decode(engine: Engine, counts: tuple[int, ...] = (1, 2, 4, 8, 16, 64, 128, 256), **rule) -> None:
    counts = tuple(count for count in counts if count in (1, 8, 64, 256) or not FAST)
    num_new = 257 if DEVICE.type == "cuda" else 9
    for count in counts if DEVICE.type == "cuda" else (1, 3):
        if time.perf_counter() - STARTED > LIMIT_SECONDS:
            return
        start = time.perf_counter()
        run_batch(engine, count, num_new, **rule)
        first = time.perf_counter() - start
        one = statistics.median(run_batch(engine, count, 1, **rule)[0] for _ in range(3))
        seconds, _, steps, waited = run_batch(engine, count, num_new, **rule)
        rate = (num_new - 1) * count / (seconds - one)
        busy = (seconds - waited) / steps * 1e3
        name = f"B={count}" + (f" {rule}" if rule else "")
        RESULTS.setdefault("decode", {})[name] = {"tok_s": rate, "host_busy_ms": busy, "first_seconds": first}
        step = (seconds - one) / (num_new - 1) * 1e3
        say(f"decode {name}: {rate:.0f} tok/s, {step:.3f} ms a step, host {busy:.3f} ms, first run {first:.2f} s")


def time_prefill(engine: Engine) -> None:
    for length in (128, 1024, 3968) if DEVICE.type == "cuda" else (100,):
        times = []
        for _ in range(9):
            engine.add(draw_prompt(length), GenerationConfig(max_new_tokens=1))
            times.append(drain(engine)[0] * 1e3)
        RESULTS.setdefault("prefill_ms", {})[str(length)] = times
        say(f"prefill {length}: {statistics.median(times[3:]):.2f} ms (first {times[0]:.0f}, best {min(times):.2f})")


def time_mixed(engine: Engine) -> None:
    """256 requests, prompts and outputs uniform in 100 to 1024; twice, since the first run records."""
    count, low, high = (256, 100, 1024) if DEVICE.type == "cuda" else (10, 5, 30)
    rng = random.Random(0)
    work = [(draw_prompt(rng.randint(low, high)), rng.randint(low, high)) for _ in range(count)]
    for run in range(2 if FAST else 3):
        if time.perf_counter() - STARTED > LIMIT_SECONDS:
            return
        for prompt, num_new in work:
            engine.add(prompt, GenerationConfig(max_new_tokens=num_new, ignore_eos=True))
        seconds, tokens, steps, waited = drain(engine)
        RESULTS.setdefault("mixed", []).append({"seconds": seconds, "tokens": tokens, "steps": steps, "waited": waited})
        say(
            f"mixed run {run}: {tokens} tokens in {seconds:.2f} s, {tokens / seconds:.0f} tok/s, {steps} steps, "
            f"host busy {(seconds - waited) / steps * 1e3:.2f} ms a step"
        )


def time_switches(engine: Engine) -> None:
    """What sampling costs, and what overlap and graphs are worth."""
    time_decode(engine, (1, 64), temperature=0.8, top_k=40, top_p=0.9)
    time_decode(engine, (64,), temperature=1.0)
    if FAST:
        return
    engine.close()
    for modes in ({"overlap": False}, {"cuda_graphs": False}):
        with make_engine(**modes) as other:
            time_decode(other, (1, 64))


def check_draw() -> None:
    """The sampling kernels against the formula, and their time."""
    for count in (1, 64, 256):
        logits = 4 * torch.randn(count, 92544, device=DEVICE)
        rows = torch.zeros(count, Field.TABLE, dtype=torch.int32, device=DEVICE)
        rows[:, Field.SEED] = torch.arange(count, device=DEVICE)
        rows[:, Field.POSITION], rows[:, Field.TOP_K] = 50, 40
        rows[:, Field.TEMPERATURE] = torch.full((count,), 0.8, device=DEVICE).view(torch.int32)
        rows[:, Field.TOP_P] = torch.full((count,), 0.9, device=DEVICE).view(torch.int32)
        for top_k, top_p in ((True, True), (False, True), (False, False)):
            filters = {"top_k": top_k, "top_p": top_p}
            out, want = (torch.full((count,), -7, device=DEVICE) for _ in "ow")
            draw(logits, rows, out, **filters)
            draw_reference(logits, rows, want, **filters)
            line = f"draw of {count} {filters}: {int((out == want).sum())}/{count} as the reference"
            if DEVICE.type == "cuda":
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    draw(logits, rows, out, **filters)
                graph.replay()
                start, stop = (torch.cuda.Event(enable_timing=True) for _ in "ab")
                start.record()
                for _ in range(20):
                    graph.replay()
                stop.record()
                stop.synchronize()
                line += f", {start.elapsed_time(stop) / 20 * 1000:.0f} µs"
            say(line)


if __name__ == "__main__":
    main()
