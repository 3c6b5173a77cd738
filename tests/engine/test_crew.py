"""Several ranks, as processes: the answers of one, and an error where one is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lmcourse import GenerationConfig, TurbomindEngineConfig, model_path
from lmcourse.engine import Engine
from lmcourse.errors import ConfigError, MachineError, RequestFailedError
from lmcourse.layers import PeerRanks

TIGHT = {"cache_max_entry_count": 8, "session_len": 300, "max_prefill_token_num": 60}


class Odd:
    """A mask that allows every second token, the next time the others."""

    def __init__(self, vocab):
        self.vocab = vocab

    def allowed(self, output_ids):
        return np.arange(self.vocab) % 2 == len(output_ids) % 2


def make_requests(rng, vocab=4096):
    """Prompts of awkward lengths with every kind of rule."""
    requests = []
    for number, length in enumerate((170, 65, 170, 5, 64, 170, 65, 170, 1, 170)):
        prompt = [rng.randrange(4, vocab) for _ in range(length)]
        rule = [
            {},
            {"random_seed": rng.randrange(2**40), "top_k": 20, "temperature": 1.3},
            {"random_seed": 7, "top_p": 0.9, "repetition_penalty": 1.2},
            {"frequency_penalty": 1.5, "logit_bias": {5: 3.0, 9: -100}},
            {"logprobs": 3},
            {"bad_words": ["the"], "min_new_tokens": 3},
        ][number % 6]
        gen = GenerationConfig(max_new_tokens=30 if length == 170 else rng.randint(1, 24), ignore_eos=True, **rule)
        requests.append((prompt, gen, Odd(vocab) if number == 6 else None))
    return requests


def clear_requests(rng):
    """Requests whose answers no other order of sums turns: ten times its noise does not, and no two logits are near.

    tiny-chat chooses between two tokens within x of each other once in 2/x times.
    """
    with open_engine() as engine:
        decoder, gaps, noise = engine._runner.decoder, [], 0.0
        true_logits = decoder.logits

        def logits(hidden):
            found = true_logits(hidden)
            best = found.topk(2).values
            gaps.extend((best[:, 0] - best[:, 1]).tolist())
            return found + noise * torch.randn_like(found)

        decoder.logits = logits
        while True:
            requests, noise = make_requests(rng), 0.0
            gaps.clear()
            wanted, noise = answer(engine, requests), 1e-4
            if min(gaps) > 1e-3 and answer(engine, requests) == wanted:
                return requests


def answer(engine, requests):
    ids = [engine.add(prompt, gen, mask=mask) for prompt, gen, mask in requests]
    told = {key: [] for key in ids}
    while engine.has_work:
        for output in engine.step():
            told[output.request_id] += output.token_ids
        engine.check()
    return [told[key] for key in ids]


def open_engine(device="cpu", **settings):
    config = TurbomindEngineConfig(dtype="float32", **settings)
    return Engine.from_folder(model_path("tiny-chat"), config, device=device)


@pytest.mark.parametrize(("tp", "settings"), [(2, TIGHT | {"overlap": True}), (4, {})])
def test_ranks_answer_as_one(tp, settings, rng):
    requests = clear_requests(rng)
    with open_engine(**settings) as engine:
        wanted = answer(engine, requests)
    with open_engine(tp=tp, **settings) as engine:
        processes = list(engine._runner._crew.processes.values())
        assert answer(engine, requests) == wanted
        aborted = engine.add([5, 6, 7], GenerationConfig(max_new_tokens=50))
        engine.step()
        engine.abort(aborted)  # the others learn of it with the next step
        assert answer(engine, requests[:2]) == wanted[:2]
        if settings:
            assert engine.stats().num_preemptions > 0
    assert all(process.poll() == 0 for process in processes), "every rank ended well"


two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


@pytest.mark.gpu
@two_gpus
@pytest.mark.parametrize("settings", [{}, TIGHT | {"overlap": False}, {"cuda_graphs": False}])
def test_gpus_answer_as_the_processor(settings, rng):
    requests = [(prompt, replace(gen, random_seed=None, top_k=1), None) for prompt, gen, _ in make_requests(rng)[1:5]]
    with open_engine(**settings) as engine:
        wanted = answer(engine, requests)
    with open_engine(tp=2, device="cuda", **settings) as engine:
        assert isinstance(engine._runner._crew.ranks, PeerRanks), "these GPUs reach each other's memory"
        assert answer(engine, requests) == wanted
        assert answer(engine, requests[:2]) == wanted[:2]


@pytest.mark.gpu
@two_gpus
def test_killed_gpu_rank_is_an_error_and_no_wait():
    engine = open_engine(tp=2, device="cuda")
    engine.add([5, 6, 7], GenerationConfig(max_new_tokens=2000, ignore_eos=True))
    for _ in range(20):
        engine.step()
    (process,) = engine._runner._crew.processes.values()
    os.kill(process.pid, signal.SIGKILL)
    started = time.monotonic()
    with pytest.raises(MachineError, match="rank of this engine was lost"):
        _finish(engine)
    engine.close()
    torch.cuda.synchronize()  # nothing is left that waits for the other
    assert time.monotonic() - started < 10


def _finish(engine):
    while engine.has_work:
        engine.step()


def test_killed_rank_is_an_error_and_no_wait():
    engine = open_engine(tp=2)
    engine.add([5, 6, 7], GenerationConfig(max_new_tokens=200, ignore_eos=True))
    engine.step()
    (process,) = engine._runner._crew.processes.values()
    folder = engine._runner._crew.folder
    os.kill(process.pid, signal.SIGKILL)
    started = time.monotonic()
    with pytest.raises(MachineError, match="rank of this engine was lost"):
        _finish(engine)
    assert time.monotonic() - started < 120, "gloo would wait for 5 minutes"
    engine.close()
    assert process.poll() is not None
    assert not folder.exists()


SILENT = """
import os, signal, threading, time
from lmcourse import GenerationConfig, TurbomindEngineConfig, model_path
from lmcourse.engine import Engine
from lmcourse.errors import MachineError

class Ended:
    def poll(self):
        return -9

engine = Engine.from_folder(model_path("tiny-chat"), TurbomindEngineConfig(dtype="float32", tp=2), device="cpu")
engine.add([5, 6, 7], GenerationConfig(max_new_tokens=200, ignore_eos=True))
engine.step()
processes = engine._runner._crew.processes
process = processes[1]
os.kill(process.pid, signal.SIGSTOP)  # its connections stay open and say nothing
threading.Timer(1.0, processes.__setitem__, (1, Ended())).start()  # when rank 0 waits for it
began = time.monotonic()
try:
    while engine.has_work:
        engine.step()
except MachineError as error:
    print(error)
processes[1] = process
engine.close()
assert 1 < time.monotonic() - began < 120  # gloo would wait for 5 minutes
"""


def test_lost_rank_whose_connections_stay_open_is_an_error_and_no_wait():
    words = [sys.executable, "-c", SILENT]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=200, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert "rank of this engine was lost" in ran.stdout


def test_rank_lost_while_it_joins_is_an_error_and_no_wait(monkeypatch):
    monkeypatch.setattr("lmcourse.engine.crew._MEMBER", LEAVES_AFTER_ARRIVAL)
    with pytest.raises(MachineError, match="that is all"):
        open_engine(tp=2)


def test_rank_whose_rank_0_is_gone_before_they_meet_ends(tmp_path):
    settings = {"rank": 1, "meeting": str(tmp_path / "meeting"), "folder": "", "device": "cpu", "parent": 0}
    task = json.dumps(settings | {"config": vars(TurbomindEngineConfig(tp=2))})
    words = [sys.executable, "-c", "from lmcourse.engine.crew_member import main; main()", task]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert "rank 0 of this engine is gone" in ran.stderr


LEAVES_AFTER_ARRIVAL = """
import json, sys
from torch.distributed import FileStore
FileStore(json.loads(sys.argv[1])["meeting"], 2).set("here-1", "yes")
raise SystemExit("that is all")
"""


def test_failing_mask_fails_its_request_alone(rng):
    class Broken:
        def allowed(self, output_ids):
            raise KeyError("no such state")

    requests = clear_requests(rng)[:2]
    with open_engine() as engine:
        wanted = answer(engine, requests)
    with open_engine(tp=2) as engine:
        bad = engine.add([5, 6], GenerationConfig(max_new_tokens=4), mask=Broken())
        with pytest.raises(RequestFailedError, match="no such state") as caught:
            _finish(engine)
        assert caught.value.request_ids == (bad,)
        engine.abort(bad)
        assert answer(engine, requests) == wanted


def test_lost_engine_leaves_no_process():
    engine = open_engine(tp=2)
    (process,) = engine._runner._crew.processes.values()
    del engine
    process.wait(timeout=120)


def test_rank_that_cannot_start_tells_why(monkeypatch, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("raise SystemExit('no such package here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("lmcourse.engine.crew.sys.executable", sys.executable)
    monkeypatch.setattr("lmcourse.engine.crew._MEMBER", "raise SystemExit('no such package here')")
    with pytest.raises(MachineError, match="no such package here"):
        open_engine(tp=2)


def test_uneven_tp_is_refused_and_nothing_stays():
    with pytest.raises(ConfigError, match="tp=3"):
        open_engine(tp=3)


def test_torchrun_runs_the_command_line():
    words = ["--nproc-per-node", "2", "--standalone", "-m", "lmcourse", "chat", "tiny-chat", "--tp", "2"]
    ran = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *words],
        input="hello\n\nexit\n\n", capture_output=True, text=True, timeout=120, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.count("tokens/s]") == 1, "one of the two talks"
