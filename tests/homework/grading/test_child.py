"""The process of an answer, behind each kind of wall that this machine has: what it can do, and what it cannot."""

from __future__ import annotations

import json
import os
import random
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lmcourse.homework.grading.child import Child, ChildLostError, namespace_commands
from lmcourse.homework.online_softmax import ONLINE_SOFTMAX
from lmcourse.homework.sandbox.confine import Limits
from lmcourse.homework.sandbox.plain import decode

KINDS = (namespace_commands()[0], ()) if len(namespace_commands()) > 1 else ((),)


@pytest.fixture(scope="module", params=KINDS, ids=[kind[0] if kind else "alone" for kind in KINDS])
def child(request: pytest.FixtureRequest) -> Iterator[Child]:
    with Child(around=request.param, preload=()) as child:
        yield child


def run(child: Child, source: str, *arguments: Any, seconds: float = 10) -> Any:
    cells = [{"source": source, "exercise": "1.1"}]
    loaded = child.ask({"load": {"exercise": "1.1", "name": "f", "cells": cells}}, seconds=seconds)
    assert loaded == {"loaded": True}, loaded
    reply = child.call(arguments, seconds=seconds)
    assert "returned" in reply, reply
    return decode(reply["returned"])


def outcome(child: Child, expression: str, *arguments: Any) -> Any:
    """What an expression gives, or the name of what it raises."""
    source = f"""
import os, sys, socket, subprocess, ctypes, shutil, pathlib
def f(*given):
    try:
        return repr({expression})
    except BaseException as error:
        return "raised " + type(error).__name__
"""
    return run(child, source, *arguments)


def test_answer_computes_and_asks_back(child: Child) -> None:
    asked = []

    def square(x: int) -> int:
        asked.append(x)
        return x * x

    assert run(child, "def f(g, xs):\n    return [g(x) for x in xs]", square, [1, 2, 3]) == [1, 4, 9]
    assert asked == [1, 2, 3]
    assert run(child, "def f(xs):\n    return sum(xs)", iter([4, 5])) == 9


def test_blocks_that_are_kept_for_later_are_spoilt_in_the_answers_process_too(child: Child) -> None:
    seed = random.SystemRandom().randrange(2**31)
    print("seed", seed)
    arguments = next(iter(ONLINE_SOFTMAX.make_cases(random.Random(seed)))).make_arguments()
    spoilt = "bool(keys.isnan().all() and values.isnan().all())"
    source = f"def f(q, blocks):\n    return [{spoilt} for keys, values in list(blocks)]"
    assert all(run(child, source, *arguments, seconds=60)), "as check() has it in the notebook's own process"


def test_error_of_a_function_of_the_exercise_reaches_the_answer(child: Child) -> None:
    def fails() -> None:
        raise ValueError("the loop does not end")

    source = "def f(g):\n    try: g()\n    except RuntimeError as error: return str(error)"
    assert run(child, source, fails) == "ValueError: the loop does not end"


def test_answer_writes_nowhere_but_at_home(child: Child, tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("as it was")
    place = str(target)
    for expression in (
        "open(given[0], 'w').write('x')", "open(given[0], 'a')", "os.open(given[0], os.O_RDWR)",
        "os.remove(given[0])", "os.rename(given[0], 'mine')", "os.symlink(given[0], given[0] + '2')",
        "shutil.rmtree(os.path.dirname(given[0]))",
        "os.mkdir(given[0] + 'd')", "os.truncate(given[0], 0)", "os.chmod(given[0], 0)",
        "pathlib.Path(given[0]).write_text('x')",
    ):  # fmt: skip
        said = outcome(child, expression, place)
        assert said in ("raised PermissionError", "raised OSError", "raised FileNotFoundError"), (expression, said)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert target.read_text() == "as it was"
    assert outcome(child, "open('mine', 'w').write('ok')") == "2"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Landlock is Linux's")
def test_answer_cannot_go_round_python(child: Child, tmp_path: Path) -> None:
    """By the C library itself, which no hook sees: here the kernel says no."""
    if not any("Landlock" in wall for wall in child.walls):
        pytest.skip("this kernel has no Landlock")
    target = tmp_path / "file"
    target.write_text("as it was")
    for call in ("open(given[0], 1)", "open(given[0], 0)", "unlink(given[0])", "truncate(given[0], 0)"):
        assert outcome(child, f"ctypes.CDLL(None).{call}", str(target).encode()) == "-1", call
    assert target.read_text() == "as it was"


def test_answer_cannot_see_exercises_or_other_work(child: Child, tmp_path: Path) -> None:
    (tmp_path / "other.zip").write_text("of somebody else")
    package = Path(__file__).parents[3] / "lmcourse"
    seen = outcome(child, "open(given[0]).read()", str(package / "homework" / "wqkv.py"))
    assert seen == "raised PermissionError"
    assert outcome(child, "__import__('lmcourse.homework.wqkv')") == "raised ModuleNotFoundError"
    assert outcome(child, "__import__('lmcourse.homework').homework.check('1.1', 3)") == "None"
    assert "PromptError" in outcome(child, "__import__('lmcourse.errors').errors.PromptError.__name__")
    if any("Landlock" in wall for wall in child.walls):
        assert outcome(child, "open(given[0]).read()", str(tmp_path / "other.zip")) == "raised PermissionError"
        assert outcome(child, "open(given[0]).read()", f"/proc/{os.getpid()}/cmdline").startswith("raised")


def test_answer_has_no_network_and_starts_nothing(child: Child) -> None:
    for expression in (
        "socket.create_connection(('127.0.0.1', 1))", "socket.socket()", "subprocess.run(['true'])",
        "os.system('true')",
        "os.fork()", "os.kill(1, 9)", "os.execv('/bin/true', ['true'])", "os.posix_spawn('/bin/true', ['true'], {})",
    ):  # fmt: skip
        assert outcome(child, expression) == "raised PermissionError", expression


def test_answer_knows_nothing_of_the_graders_surroundings(child: Child) -> None:
    os.environ["SECRET_OF_THE_GRADER"] = "1"
    try:
        with Child(preload=()) as fresh:
            names = run(fresh, "import os\ndef f():\n    return sorted(os.environ)")
    finally:
        del os.environ["SECRET_OF_THE_GRADER"]
    assert "SECRET_OF_THE_GRADER" not in names
    assert "LMCOURSE_HOMEWORK" not in names


def test_large_file_and_large_memory_are_refused(child: Child) -> None:
    assert outcome(child, "open('big', 'wb').write(bytes(2**22))") in ("raised OSError", "raised SystemExit")
    assert outcome(child, "len(bytearray(2 * 2**30))") == "raised MemoryError"


def test_what_is_printed_goes_nowhere(child: Child) -> None:
    source = "import os, sys\ndef f():\n    print('x' * 9999); sys.stderr.write('y'); os.write(1, b'z'); return 5"
    assert run(child, source) == 5


def test_loop_ends_at_its_deadline_and_leaves_nothing() -> None:
    with Child(preload=()) as child:
        started = time.monotonic()
        with pytest.raises(ChildLostError, match="time limit"):
            run(child, "def f():\n    while True: pass", seconds=0.5)
        home, process = child._home, child._process
    assert time.monotonic() - started < 100
    assert not home.exists()
    assert process is not None
    assert process.returncode is not None


PIPES = """
import ctypes, json, os, struct
def f(data=b""):
    for pipe in range(3, 9):  # one of them is the grader's
        try: {what}
        except OSError: pass
    return 1
"""


@pytest.mark.parametrize("what", ["os._exit(0)", "os.close(pipe)"])
def test_dead_child_is_told(what: str) -> None:
    with Child(preload=()) as child, pytest.raises(ChildLostError):
        run(child, PIPES.format(what=what), seconds=5)


def test_forged_messages_are_told() -> None:
    with Child(preload=()) as child, pytest.raises(ChildLostError, match="no value"):
        run(child, PIPES.format(what="os.write(pipe, data)"), b"\xff\xff\xff\xff", seconds=5)


def test_asking_for_what_is_not_there_raises_in_the_answer() -> None:
    ask = json.dumps({"ask": 99, "arguments": {"t": "tuple", "v": []}}).encode()
    with Child(preload=()) as child:
        assert run(child, PIPES.format(what="os.write(pipe, data)"), struct.pack(">I", len(ask)) + ask, seconds=5) == 1


def test_cpu_limit_ends_a_child_by_itself() -> None:
    with Child(Limits(cpu_seconds=2), preload=()) as child, pytest.raises(ChildLostError, match="ended"):
        run(child, "def f():\n    while True: pass", seconds=60)
