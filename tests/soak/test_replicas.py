"""Real Ray, two replicas, fifty clients, and kill -9: of a replica, of both, of the front; and a rolling restart.

Ray's start alone takes half a minute on two cores, so all of this is soak, and one test, since parallel test processes
would each start a Ray; tests/replicas has the same logic without Ray. LMCOURSE_REPLICAS_JSON=FILE writes down what was
measured (benchmarks/replicas_cpu.json).
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path

import httpx
import pytest

sys.path.extend([str(Path(__file__).parent), str(Path(__file__).parents[1])])

from clear_answers import is_clear
from replica_service import Service, Told, ask_together, body_of, pids_of, serving

from lmcourse import GenerationConfig, Response, TurbomindEngineConfig, pipeline

NUM_CLIENTS, NUM_TOKENS = 50, 120

Offline = dict[str, Response]


@pytest.fixture(scope="module")
def measured() -> Iterator[dict]:
    figures: dict = {}
    yield figures
    target = os.environ.get("LMCOURSE_REPLICAS_JSON")
    if target and figures:
        head = {
            "what": "tiny-chat, two replicas under Ray Serve, 50 clients, 120 greedy tokens each; kill -9 meanwhile",
            "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}, Python {platform.python_version()}",
            "versions": {name: version(name) for name in ("ray", "torch", "fastapi", "uvicorn")},
            "date": date.today().isoformat(),
            "command": "LMCOURSE_REPLICAS_JSON=benchmarks/replicas_cpu.json pytest -m soak tests/soak/test_replicas.py",
        }
        Path(target).write_text(json.dumps({**head, "results": figures}, indent=1) + "\n", encoding="utf-8")


def draw_prompts() -> Iterator[str]:
    seed = random.SystemRandom().randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    words = ["river", "lamp", "seven", "garden", "north", "paper", "small", "green", "winter", "count"]
    return (f"{i} " + " ".join(rng.choices(words, k=rng.randint(1, 30))) for i in itertools.count())


@pytest.fixture(scope="module")
def offline() -> Offline:
    """What the pipeline says to each prompt."""
    gen = GenerationConfig(max_new_tokens=NUM_TOKENS, ignore_eos=True, logprobs=2)
    prompts = list(itertools.islice(draw_prompts(), 2 * NUM_CLIENTS))  # about one in fifteen is not clear
    with pipeline("tiny-chat", backend_config=TurbomindEngineConfig(max_batch_size=64, session_len=1024)) as pipe:
        given = [{"prompt_token_ids": pipe.encode(prompt, wrap=False)} for prompt in prompts]
        told = zip(prompts, pipe(given, gen), strict=True)
        clear = [(prompt, response) for prompt, response in told if is_clear(response)]
    assert len(clear) >= NUM_CLIENTS
    return dict(clear[:NUM_CLIENTS])


def expect_all(told: list[Told], offline: Offline) -> None:
    """Every client heard exactly what the pipeline says."""
    for each in told:
        answer = offline[each.prompt]
        assert (each.error, each.broke, each.done) == (None, None, True), each
        assert each.token_ids == answer.token_ids
        assert each.text == answer.text


def gauge(service: Service, name: str) -> float:
    lines = httpx.get(f"{service.url}/metrics", trust_env=False).text.splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(name + " ")))


def wait_for_replicas(service: Service, count: int = 2, seconds: float = 90) -> float:
    began = time.monotonic()
    while not (gauge(service, "lmcourse_replicas") == count == len(service.replica_pids())):
        assert time.monotonic() - began < seconds, "the replicas did not come back"
        time.sleep(0.2)
    return time.monotonic() - began


def check_loopback(service: Service) -> None:
    own = {*pids_of("ray::"), *pids_of("/ray/")} | {service.process.pid, service.front_pid()}
    listening = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout.splitlines()
    ours = [line for line in listening if any(f"pid={pid}," in line for pid in own)]
    assert ours
    assert [line for line in ours if not line.split()[3].startswith(("127.", "[::1]", "[::ffff:127."))] == []


def answer_undisturbed(service: Service, offline: Offline, measured: dict) -> None:
    began = time.monotonic()
    told = ask_together(service.url, list(offline), NUM_TOKENS, lambda: None, num_whole=10)
    measured["undisturbed"] = {"seconds": round(time.monotonic() - began, 1), "answers": len(told)}
    expect_all(told, offline)


def kill_replicas(service: Service, offline: Offline, measured: dict, num_killed: int) -> None:
    wait_for_replicas(service)
    cut, resumed = gauge(service, "lmcourse_answers_cut_total"), gauge(service, "lmcourse_answers_resumed_total")
    victims = service.replica_pids()[:num_killed]
    began = time.monotonic()
    told = ask_together(
        service.url, list(offline), NUM_TOKENS, lambda: [os.kill(pid, signal.SIGKILL) for pid in victims], num_whole=10
    )
    seconds = time.monotonic() - began
    expect_all(told, offline)
    num_cut = gauge(service, "lmcourse_answers_cut_total") - cut
    assert num_cut > 0
    assert gauge(service, "lmcourse_answers_resumed_total") - resumed == num_cut if num_killed == 1 else True
    back = wait_for_replicas(service)
    measured[f"replicas_killed_{num_killed}"] = {
        "answers": len(told), "answers_lost": 0, "answers_cut_and_resumed": int(num_cut),
        "seconds_to_the_last_answer": round(seconds, 1),
        "seconds_from_the_last_answer_to_two_replicas": round(back, 1),
    }  # fmt: skip


def stop_a_replica(service: Service, offline: Offline, measured: dict) -> None:
    """SIGSTOP: alive, its connections open, and no answer any more."""
    wait_for_replicas(service)
    cut = gauge(service, "lmcourse_answers_cut_total")
    victim = service.replica_pids()[0]
    stopped: list[float] = []

    def stop() -> None:
        os.kill(victim, signal.SIGSTOP)
        stopped.append(time.monotonic())

    told = ask_together(service.url, list(offline), NUM_TOKENS, stop, num_whole=10)
    seconds = time.monotonic() - stopped[0]
    expect_all(told, offline)
    num_cut = gauge(service, "lmcourse_answers_cut_total") - cut
    assert num_cut > 0
    while victim in service.replica_pids():
        assert time.monotonic() - stopped[0] < 120, "the replica that hangs was not ended"
        time.sleep(0.2)
    ended = time.monotonic() - stopped[0]
    wait_for_replicas(service)
    measured["replica_stopped"] = {
        "answers": len(told), "answers_lost": 0, "answers_cut_and_resumed": int(num_cut),
        "seconds_to_the_last_answer": round(seconds, 1), "seconds_until_it_was_ended": round(ended, 1),
        "seconds_until_two_replicas_answer": round(time.monotonic() - stopped[0], 1),
    }  # fmt: skip


def kill_the_front(service: Service, offline: Offline, measured: dict) -> None:
    wait_for_replicas(service)
    while len(service.front_pids()) < 2:
        time.sleep(0.1)
    waited: list[float] = []

    def kill() -> None:
        os.kill(service.front_pid(), signal.SIGKILL)
        began = time.monotonic()
        while not waited:
            try:
                answer = httpx.post(
                    f"{service.url}/v1/completions", json=body_of("again", 1), trust_env=False, timeout=60
                )
                assert answer.status_code == 200
                waited.append(time.monotonic() - began)
            except httpx.TransportError:
                time.sleep(0.01)

    told = ask_together(service.url, list(offline), NUM_TOKENS, kill)
    reset = [each for each in told if each.broke]
    assert len(reset) + sum(each.done for each in told) == NUM_CLIENTS
    assert reset, "nobody noticed"
    again = ask_together(service.url, [each.prompt for each in reset], NUM_TOKENS, lambda: None)
    measured["front_killed"] = {"clients_reset": len(reset), "retries_that_succeeded": len(again)}
    expect_all(again, offline)
    seconds = float(service.wait_for(r"the front answers again after ([\d.]+) s")[1])
    measured["front_killed"] |= {
        "seconds_until_another_front_answers": seconds, "seconds_from_the_kill_to_a_whole_answer": round(waited[0], 2)
    }  # fmt: skip
    print(f"another front after {seconds} s; a client that asked again had its answer after {waited[0]:.2f} s")


def restart_all(service: Service, offline: Offline, measured: dict) -> None:
    wait_for_replicas(service)
    before = set(service.replica_pids())
    command = [sys.executable, "-m", "lmcourse", "serve", "replicas", "--restart", service.ray_address]
    command += ["--app-name", service.app_name]
    done: list[subprocess.CompletedProcess[str]] = []

    def restart() -> None:
        done.append(subprocess.run(command, capture_output=True, text=True, check=False, timeout=200))

    began = time.monotonic()
    told = ask_together(service.url, list(offline), NUM_TOKENS, restart)
    assert done[0].returncode == 0, done[0].stderr
    expect_all(told, offline)
    wait_for_replicas(service)
    assert not before & set(service.replica_pids())
    measured["rolling_restart"] = {
        "answers": len(told),
        "answers_lost": 0,
        "seconds": round(time.monotonic() - began, 1),
    }


def stop(service: Service) -> None:
    """It leaves no process and no port behind."""
    port = int(service.url.rpartition(":")[2])
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(60) == 0
    assert service.replica_pids() == []
    assert pids_of("lmcourse.replicas.front", parent=service.process.pid) == []
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def kill_a_rank(service: Service, offline: Offline, measured: dict) -> None:
    """A worker of a replica that is spread over two processes: the whole replica is replaced."""
    victim, other = service.replica_pids()
    (rank,) = pids_of("crew_member", parent=victim)
    told = ask_together(service.url, list(offline), NUM_TOKENS, lambda: os.kill(rank, signal.SIGKILL), num_whole=10)
    expect_all(told, offline)
    num_cut = gauge(service, "lmcourse_answers_cut_total")
    assert num_cut > 0
    deadline = time.monotonic() + 90
    while victim in service.replica_pids() or len(service.replica_pids()) < 2:
        assert time.monotonic() < deadline, "the replica was not replaced"
        time.sleep(0.2)
    assert other in service.replica_pids()
    measured["rank_killed_tp_2"] = {"answers": len(told), "answers_lost": 0, "answers_cut_and_resumed": int(num_cut)}


@pytest.mark.soak
def test_replicas_lose_no_request_whoever_is_killed(offline, measured) -> None:
    began = time.monotonic()
    with serving("--routing", "least-loaded") as service:
        measured["seconds_from_command_to_listening"] = round(time.monotonic() - began, 1)
        check_loopback(service)
        answer_undisturbed(service, offline, measured)
        kill_replicas(service, offline, measured, 1)
        kill_replicas(service, offline, measured, 2)
        stop_a_replica(service, offline, measured)
        kill_the_front(service, offline, measured)
        restart_all(service, offline, measured)
        stop(service)


@pytest.mark.soak
def test_replicas_of_two_ranks_lose_no_request_when_a_rank_is_killed(offline, measured) -> None:
    with serving("--tp", "2", "--routing", "least-loaded") as service:
        kill_a_rank(service, offline, measured)


@pytest.mark.soak
def test_replicas_come_with_load_and_go_without(offline, measured) -> None:
    limits = ("--min-replicas", "1", "--max-replicas", "2", "--idle", "5")
    with serving(*limits, "--max-batch-size", "4", "--max-queue", "100") as service:
        wait_for_replicas(service, 1)
        began = time.monotonic()
        while gauge(service, "lmcourse_replicas") < 2:
            assert time.monotonic() - began < 240, "no second replica came"
            expect_all(ask_together(service.url, list(offline), NUM_TOKENS, lambda: None, num_whole=10), offline)
        measured["second_replica_after_seconds_of_load"] = round(time.monotonic() - began, 1)
        expect_all(ask_together(service.url, list(offline), NUM_TOKENS, lambda: None), offline)
        measured["second_replica_gone_after_idle_seconds"] = round(wait_for_replicas(service, 1), 1)
        expect_all(ask_together(service.url, list(offline)[:5], NUM_TOKENS, lambda: None), offline)


@pytest.mark.soak
def test_replicas_on_two_machines_lose_no_request_with_one_of_them(offline, measured) -> None:
    words = [sys.executable, str(Path(__file__).parent / "ray_machines.py")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as machines:

        def tell(word: str) -> None:
            machines.stdin.write(f"{word}\n")
            machines.stdin.flush()
            while machines.stdout.readline() != f"done {word}\n":
                assert machines.poll() is None

        address = next(line.split()[1] for line in machines.stdout if line.startswith("cluster "))
        try:
            with serving("--ray-address", address, "--routing", "least-loaded") as service:
                wait_for_replicas(service)
                told = ask_together(service.url, list(offline), NUM_TOKENS, lambda: tell("lose"), num_whole=10)
                expect_all(told, offline)
                num_cut = int(gauge(service, "lmcourse_answers_cut_total"))
                assert num_cut > 0
                tell("add")
                back = wait_for_replicas(service, seconds=180)
                expect_all(ask_together(service.url, list(offline), NUM_TOKENS, lambda: None), offline)
        finally:
            machines.stdin.close()
            machines.wait(60)
    measured["machine_lost_of_two"] = {
        "answers": len(told), "answers_lost": 0, "answers_cut_and_resumed": num_cut,
        "seconds_from_a_new_machine_to_two_replicas": round(back, 1),
    }  # fmt: skip
