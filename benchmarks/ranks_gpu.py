"""Several GPUs that share one model: right, and how much faster than one of them.

    python benchmarks/ranks_gpu.py check sums speed      on a machine with two GPUs, about 3 minutes
    TP=4 python benchmarks/ranks_gpu.py speed            with four
    SECONDS_LEFT=100 …                                   what is not done by then is left out
    MODELS=dummy:llama2-7b ONLY_TP=2 … speed             one model, one number of ranks
    python benchmarks/ranks_gpu.py speed --rehearse      on a CPU with a tiny model, ranks over gloo

check: the tests marked gpu of tests/engine/test_crew.py and tests/kernels/test_rank_sum.py. sums: one sum over ranks,
ours through memory and NCCL's all-reduce, as graphs of 50. speed: decode steps of one rank and of TP ranks. Results go
to $OUT/ranks.json after each figure; lines for the ledger to $OUT/ledger.jsonl.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
STARTED, LIMIT = time.perf_counter(), float(os.environ.get("SECONDS_LEFT", "1e9"))
OUT, TP = Path(os.environ.get("OUT", "build")), int(os.environ.get("TP", "2"))
ONLY = tuple(int(tp) for tp in os.environ.get("ONLY_TP", "").split())  # without what is known already
REHEARSED = "--rehearse" in sys.argv
MODELS = {"dummy:llama2-7b": (None, (1, 8, 64)), "dummy:llama2-70b": (16, (1, 8, 64))}  # layers, batches
CHOSEN = os.environ.get("MODELS", " ".join(MODELS)).split()
ITERATIONS = 50


def say(line: object) -> None:
    sys.stdout.write(f"{time.perf_counter() - STARTED:6.1f} s  {line}\n")
    sys.stdout.flush()


def keep(name: str, value: Any) -> None:
    path = OUT / "ranks.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | {name: value}, indent=1))


def check() -> None:
    files = ("tests/kernels/test_rank_sum.py", "tests/engine/test_crew.py")
    words = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "-W", "default", "--tb=short"]
    words += ["-o", "faulthandler_timeout=30"]
    with tempfile.TemporaryFile("w+") as told:
        pytest = subprocess.Popen([*words, *files], cwd=ROOT, stdout=told, stderr=subprocess.STDOUT)
        until = time.monotonic() + 85
        while pytest.poll() is None and time.monotonic() < until:
            time.sleep(0.1)
        pytest.kill()
        told.seek(0)
        text = told.read()
    say(text[-5000:])
    keep("check", text.strip().splitlines()[-1:])


def sums() -> None:
    """Every rank is a process; rank 0's figures count."""
    with tempfile.TemporaryDirectory() as place:
        words = [sys.executable, __file__, "one-rank", str(Path(place) / "meeting")]
        ranks = [subprocess.Popen([*words, str(rank)]) for rank in range(TP)]
        until = time.monotonic() + 40
        while any(rank.poll() is None for rank in ranks) and time.monotonic() < until:
            time.sleep(0.1)
        for rank in ranks:
            rank.kill()  # nobody waits for it: a process whose GPU is busy may take its time


def one_rank(meeting: str, rank: int) -> None:
    import faulthandler

    import torch
    from torch.distributed import FileStore

    from lmcourse.engine.crew import join
    from lmcourse.engine.crew_meeting import Meeting
    from lmcourse.layers import GroupRanks

    faulthandler.dump_traceback_later(30)
    ranks = join(Meeting(FileStore(meeting, TP), rank, TP, rank), torch.device("cuda")).ranks
    forms = {type(ranks).__name__: ranks, "NCCL": GroupRanks(ranks.group, ranks.device, ranks.watch)}
    found: dict[str, Any] = {}
    for tokens in (1, 8, 64, 128):
        parts = torch.randn(1, tokens, 4096, device="cuda", dtype=torch.float16)
        for name, form in forms.items():
            found[f"{name}, {tokens} x 4096"] = microseconds(form, parts)
    if rank == 0:
        say(found)
        keep("sums, us", found)
    os._exit(0)


def microseconds(ranks: Any, parts: Any) -> float:
    import torch

    def work() -> Any:
        whole = parts
        for _ in range(ITERATIONS):
            whole = ranks.add_up(whole) * 0.5
        return whole

    work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        work()
    times = []
    for _ in range(12):
        ranks.least(0)
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in "ab")
        start.record()
        graph.replay()
        stop.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(stop) * 1e3 / ITERATIONS)
    return round(sorted(times)[len(times) // 2], 2)


def speed() -> None:
    from families_gpu import shape_folder

    from lmcourse.bench import append_to_ledger, measure_decode, open_stand
    from lmcourse.config import TurbomindEngineConfig

    models = {"dummy:tiny": (None, (1, 2))} if REHEARSED else {name: MODELS[name] for name in MODELS if name in CHOSEN}
    for model, (num_layers, batches) in models.items():
        folder = model if num_layers is None else str(shape_folder(model.removeprefix("dummy:"), num_layers))
        for tp in ONLY or (1, TP):
            if time.perf_counter() - STARTED > LIMIT:
                say(f"no time left for {model} tp={tp}")
                continue
            # room in half of the memory: the next engine comes before all of this one's is back
            cache = {"cache_max_entry_count": 200 if REHEARSED else 0.5}
            config = TurbomindEngineConfig(session_len=512, max_batch_size=max(batches), tp=tp, **cache)
            with open_stand(folder, config) as stand:
                speeds = []
                for batch in batches:
                    speeds.append(measure_decode(stand, batch=batch, output_len=9 if REHEARSED else 257, repeats=3))
                    say(f"{model} layers={num_layers} tp={tp}: {speeds[-1]}")
                head = stand.head("decode") | {"num_layers": num_layers, "model": model, "settings": {"tp": tp}}
                append_to_ledger(OUT / "ledger.jsonl", head | {"speeds": [one.to_json() for one in speeds]})


def main() -> int:
    if "one-rank" in sys.argv:
        one_rank(sys.argv[2], int(sys.argv[3]))
    for name, action in {"check": check, "sums": sums, "speed": speed}.items():
        if name in sys.argv:
            try:
                action()
            except Exception as error:  # the others still have something to say
                say(f"FAILED {name}: {type(error).__name__}: {error}"[:1500])
    return 0


if __name__ == "__main__":
    sys.exit(main())
