"""Thirty students on one CPU server, one of them a flood and one who asks once in a while, through the command line.

`lmcourse serve roster` makes the keys, `lmcourse serve api_server --class-roster` serves them; the default of 128
places with one question open each and with two, and 8, where most of the class waits. LMCOURSE_CLASS_JSON=FILE writes
down what was measured (benchmarks/class_cpu.json).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "serve")]

from class_of_students import FLOOD, SELDOM, Busy, Report, check_parts, check_shares, make_busy, watch_class
from replica_service import serving as serving_replicas

from lmcourse.bench import current_commit, describe_machine
from lmcourse.serve.class_roster import read_roster

NAMES = (*(f"Student {number}" for number in range(1, 29)), FLOOD, SELDOM)
COMMAND = "LMCOURSE_CLASS_JSON=benchmarks/class_cpu.json pytest -m soak tests/soak/test_class.py"


@pytest.fixture(scope="module")
def measured() -> Iterator[dict]:
    figures: dict = {}
    yield figures
    target = os.environ.get("LMCOURSE_CLASS_JSON")
    if target and figures:
        what = "tiny-chat, 28 busy students, a flood with 40 requests open, one who asks once in a while"
        head = {"what": what, "commit": current_commit(), "machine": describe_machine(), "command": COMMAND}
        head["note"] = "seconds are upper bounds where the load was above half of the cores; shares do not depend on it"
        Path(target).write_text(json.dumps({**head, "results": figures}, indent=1) + "\n", encoding="utf-8")


@contextmanager
def serving(roster: Path, num_places: int) -> Iterator[str]:
    """The address of a server of its own."""
    command = [
        sys.executable,
        "-m",
        "lmcourse",
        "serve",
        "api_server",
        "tiny-chat",
        "--server-port",
        "0",
        "--grace",
        "1",
    ]
    command += ["--class-roster", str(roster), "--max-batch-size", str(num_places), "--session-len", "512"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            lines = iter(process.stdout.readline, "")
            found = next(found for line in lines if (found := re.search(r"listening on (http://[^\s,]+)", line)))
            yield found[1]
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def summarise(report: Report, seconds: float) -> dict:
    busy = {name: share for name, share in report.shares.items() if name != FLOOD}
    return {
        "seconds": round(seconds, 1),
        "tokens_of_all": sum(report.tokens.values()),
        "smallest_share": round(min(busy.values()), 3),
        "largest_share": round(max(busy.values()), 3),
        "shares": {name: round(share, 3) for name, share in report.shares.items()},
        "first_token_seconds": {
            name: round(report.first_token_seconds[int(part * len(report.first_token_seconds))], 3)
            for name, part in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
        },
        "share_of_the_flood": round(report.shares[FLOOD], 3),
        "answers_of_a_student": [min(report.answers.values()), max(report.answers.values())],
        "most_answers_of_one_before_the_seldom_ones_first_token": max(
            max(answers.values(), default=0) for answers in report.overtaken
        ),
    }


@pytest.mark.soak
@pytest.mark.parametrize(("num_places", "num_open"), [(128, 1), (128, 2), (8, 1)])
def test_thirty_students_get_equal_shares(num_places: int, num_open: int, tmp_path: Path, measured: dict) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print("seed", seed)
    names, roster = tmp_path / "names.txt", tmp_path / "roster.json"
    names.write_text("\n".join(NAMES), "utf-8")
    subprocess.run([sys.executable, "-m", "lmcourse", "serve", "roster", str(names), "--out", str(roster)], check=True)
    keys = {student.name: student.key for student in read_roster(roster).students}
    busy = make_busy(keys, random.Random(seed), longest=48, num_open=num_open)
    seldom = Busy(SELDOM, keys[SELDOM], 24, 8)
    with serving(roster, num_places) as url:
        started = time.monotonic()
        report = asyncio.run(watch_class(url, busy, seldom, 800, seed, times=5))
    measured[f"places_{num_places}_open_{num_open}"] = summarise(report, time.monotonic() - started)
    check_shares(report)


@pytest.mark.soak
def test_a_dozen_students_behind_two_replicas_are_not_flooded(tmp_path: Path, measured: dict) -> None:
    """A flood has one part of one replica where the machine keeps up with the students' questions."""
    seed = random.SystemRandom().randrange(2**32)
    print("seed", seed)
    names = (*(f"Student {number}" for number in range(1, 13)), FLOOD, SELDOM)
    keys = {name: f"sk-{name}" for name in names}
    roster = tmp_path / "roster.json"
    students = {name: {"key": key} for name, key in keys.items()}
    roster.write_text(json.dumps({"instructor": {"key": "sk-i"}, "students": students}), "utf-8")
    busy = make_busy(keys, random.Random(seed), longest=48, num_open=1)
    with serving_replicas("--class-roster", str(roster)) as service:
        started = time.monotonic()
        report = asyncio.run(watch_class(service.url, busy, Busy(SELDOM, keys[SELDOM], 24, 8), 1200, seed, times=2))
    measured["two_replicas_open_1"] = summarise(report, time.monotonic() - started)
    check_parts(report)
