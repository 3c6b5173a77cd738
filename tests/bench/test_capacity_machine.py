"""The virtual machine: cases that can be done by hand, and the engine's own order of things."""

from __future__ import annotations

import random

import pytest
from capacity_tables import make_table

from lmcourse.bench.capacity_machine import EngineMachine, News, VirtualMachine
from lmcourse.config import TurbomindEngineConfig
from lmcourse.engine import Engine
from lmcourse.errors import MemoryBudgetError
from lmcourse.text.hub import find_model


def play(machine):
    """(moment in ms, request, last?) of every token."""
    told = []
    while machine.has_work:
        told += [(round(1000 * machine.now, 6), *news) for news in machine.advance()]
        if isinstance(machine, VirtualMachine):
            machine.check()
    return told


def test_one_question_is_its_prompt_and_then_a_step_a_token():
    machine = VirtualMachine(make_table())
    machine.ask(10, 3)
    assert play(machine) == [(100, 0, False), (110, 0, False), (120, 0, True)]
    use = machine.use()
    assert (use.num_steps, use.peak_blocks, use.num_preemptions, use.num_outside) == (3, 1, 0, 0)
    assert use.busy_seconds == pytest.approx(0.12)


def test_two_questions_at_once_share_their_steps():
    machine = VirtualMachine(make_table())
    machine.ask(10, 2)
    machine.ask(20, 3)
    assert play(machine) == [(300, 0, False), (300, 1, False), (310, 0, True), (310, 1, False), (320, 1, True)]


@pytest.mark.parametrize(("overlap", "first"), [(False, 220), (True, 230)])
def test_a_question_between_steps_waits_for_what_is_launched(overlap, first):
    machine = VirtualMachine(make_table(overlap=overlap))
    machine.ask(10, 6)
    assert machine.advance() == [News(0, is_last=False)]
    machine.ask(10, 1)
    told = play(machine)
    # without overlap: a step of a decode and the prompt; with it a decode that is on its way already comes first
    assert [moment for moment, request, _ in told if request == 1] == [first - 10]


def test_a_prompt_longer_than_a_step_takes_several():
    machine = VirtualMachine(make_table(max_tokens_per_step=64))
    machine.ask(100, 1)
    assert play(machine) == [(1000, 0, True)]
    assert machine.use().num_steps == 2


def test_a_small_pool_preempts_and_everybody_is_answered():
    machine = VirtualMachine(make_table(), num_blocks=8)
    for _ in range(3):
        machine.ask(30, 50)
    told = play(machine)
    assert sorted(request for _, request, last in told if last) == [0, 1, 2]
    assert machine.use().num_preemptions > 0
    assert machine.use().peak_blocks <= 8


def test_a_question_that_can_never_fit_is_an_error():
    with pytest.raises(MemoryBudgetError):
        VirtualMachine(make_table(), num_blocks=2).ask(30, 50)


@pytest.mark.parametrize("overlap", [False, True])
def test_every_token_comes_once_whatever_is_asked(overlap):
    seed = random.randrange(10**6)
    print("seed", seed)
    draw = random.Random(seed)
    machine = VirtualMachine(make_table(overlap=overlap, max_tokens_per_step=40), max_running=5, num_blocks=14)
    wanted, got, last = {}, {}, []
    while len(wanted) < 40 or machine.has_work:
        while len(wanted) < 40 and draw.random() < 0.3:
            prompt, answer = draw.randint(1, 90), draw.randint(1, 60)
            wanted[machine.ask(prompt, answer)] = answer
        if not machine.has_work:
            machine.wait_until(machine.now + 1)
            continue
        before = machine.now
        for request, is_last in machine.advance():
            got[request] = got.get(request, 0) + 1
            if is_last:
                last.append(request)
        assert machine.now >= before
        machine.check()
    assert got == wanted
    assert sorted(last) == sorted(wanted)


def test_engine_and_virtual_machine_take_the_same_steps():
    asked = [(random.randint(1, 60), random.randint(1, 20)) for _ in range(6)]
    print("asked", asked)
    config = TurbomindEngineConfig(session_len=128, max_batch_size=4, cache_max_entry_count=12.0, dtype="float32")
    with Engine.from_folder(find_model("dummy:tiny"), config) as engine:
        stats = engine.stats()
        limits = {"num_blocks": stats.num_blocks, "tokens_per_block": stats.tokens_per_block, "max_running": 4}
        machines = EngineMachine(engine), VirtualMachine(make_table(**limits, max_tokens_per_step=8192))
        told = []
        for machine in machines:
            for prompt, answer in asked:
                machine.ask(prompt, answer)
            told.append([(request, last) for _, request, last in play(machine)])
        assert told[0] == told[1]
        real, virtual = (machine.use() for machine in machines)
    assert (real.num_steps, real.num_preemptions) == (virtual.num_steps, virtual.num_preemptions)
    assert real.busy_seconds > 0
