"""FairQueue: its rules one by one, the bound on unfairness under random load, and a class of thirty on a fake clock."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from dataclasses import replace

import pytest
from engine_workloads import Job, Simulation, Workload, draw_workload

from lmcourse.engine.blocks import BlockManager
from lmcourse.engine.fair_queue import FairQueue
from lmcourse.engine.prefix_cache import PrefixCache
from lmcourse.engine.request import Request
from lmcourse.engine.scheduler import Plan, Scheduler


class Bench:
    """A scheduler with a fair queue, whose model says 7."""

    def __init__(self, *, max_running: int = 4, num_easy: int = 8, num_blocks: int = 4096, **weights: int) -> None:
        self.seconds = 0.0  # the queue's clock
        self.queue = FairQueue(lambda: self.seconds, num_easy=num_easy, **weights)
        blocks = BlockManager(num_blocks, 4)
        self.scheduler = Scheduler(
            blocks, max_running=max_running, max_tokens_per_step=8192, prefixes=PrefixCache(blocks), waiting=self.queue
        )
        self.num_steps = 0
        self._ids = itertools.count()

    def ask(self, account: str | None, prompt_len: int = 1, num_new: int = 4, first_token: int = 0) -> Request:
        request_id = next(self._ids)
        prompt = [first_token or 1000 + request_id] * prompt_len
        request = Request(request_id, prompt, prompt_len + num_new, account=account)
        self.scheduler.add(request)
        return request

    def step(self) -> Plan:
        plan = self.scheduler.schedule()
        self.scheduler.apply(plan)
        self.scheduler.record_launched(plan)
        for request in {chunk.request for chunk in plan.chunks if chunk.samples}:
            if request.num_tokens < request.max_tokens:
                request.append(7)
            else:
                self.scheduler.remove(request)
        if self.num_steps % 8 == 0 or len(self.scheduler.waiting) < 8:
            self.scheduler.check()
        self.num_steps += 1
        tokens = [chunk.num_tokens for chunk in plan.chunks]
        decodes = sum(count == 1 for count in tokens)
        self.seconds += 0.004 + 0.0012 * decodes + 0.0001 * (sum(tokens) - decodes)  # about tiny-chat's on two cores
        return plan

    def wait(self, seconds: float) -> None:
        self.seconds += seconds

    def running(self) -> list[str | None]:
        return [request.account for request in self.scheduler.running]


def test_candidates_take_turns_between_accounts() -> None:
    bench = Bench(max_running=7, num_easy=7)
    for account in ["Ada"] * 5 + ["Ben"] * 2 + ["Cem"]:
        bench.ask(account, num_new=50)
    bench.step()
    assert bench.running() == ["Ada", "Ben", "Cem", "Ada", "Ben", "Ada"]


def test_candidates_of_one_account_come_in_order() -> None:
    bench = Bench(max_running=1)
    requests = [bench.ask(None, num_new=2) for _ in range(6)]
    served = []
    while bench.scheduler.has_work:
        served += bench.step().admitted
    assert served == requests


def test_charge_counts_prompts_and_answers_by_weight(rng: random.Random) -> None:
    bench = Bench(prompt_weight=3, answer_weight=2)
    lengths = [(rng.randint(1, 50), rng.randint(1, 20)) for _ in range(6)]
    for prompt_len, num_new in lengths:
        bench.ask("Ada", prompt_len, num_new)
    while bench.scheduler.has_work:
        bench.step()
    assert bench.queue.served() == {"Ada": sum(3 * prompt_len + 2 * num_new for prompt_len, num_new in lengths)}


def test_admit_does_not_charge_what_the_cache_has() -> None:
    bench = Bench()
    for _ in range(2):
        bench.ask("Ada", prompt_len=10, num_new=1, first_token=5)
        bench.step()
        bench.step()
    assert bench.queue.served() == {"Ada": 10 + 1 + 2 + 1}, "two of three blocks were found, eight tokens"


def test_preemption_is_free_and_comes_back_first_of_its_account() -> None:
    bench = Bench(num_blocks=6, max_running=8)
    old = bench.ask("Ada", prompt_len=8, num_new=12)
    young = bench.ask("Ben", prompt_len=8, num_new=12)
    bench.step()
    later = bench.ask("Ben", prompt_len=1, num_new=2)
    plans = [bench.step()]
    while bench.scheduler.has_work:
        plans.append(bench.step())
    assert any(young in plan.preempted for plan in plans)
    admitted = [request for plan in plans for request in plan.admitted]
    assert max(i for i, request in enumerate(admitted) if request is young) < admitted.index(later)
    assert old not in [request for plan in plans for request in plan.preempted]
    assert bench.queue.served() == {"Ada": 20, "Ben": 20 + 3}


def test_newcomer_comes_before_a_flood_that_gave_way() -> None:
    bench = Bench(num_blocks=12, max_running=8)
    for _ in range(8):
        bench.ask("Ada", prompt_len=4, num_new=30)
    while not bench.step().preempted:
        pass
    newcomer = bench.ask("Ben", prompt_len=4, num_new=1)
    admitted: list[Request] = []
    while not newcomer.num_outputs:
        admitted += bench.step().admitted
    assert admitted == [newcomer]


def test_add_keeps_the_place_of_who_asks_again_soon() -> None:
    bench = Bench()
    bench.ask("Ada", num_new=1)
    bench.ask("Ben", num_new=100)
    for _ in range(10):
        bench.step()
    bench.wait(0.15)
    bench.ask("Ada", num_new=1)
    assert bench.queue.served() == {"Ada": 9, "Ben": 11}, "two tokens behind, as many as its visit had"


def test_add_lifts_who_was_away() -> None:
    bench = Bench()
    bench.ask("Ada", num_new=1)
    bench.ask("Ben", num_new=100)
    for _ in range(10):
        bench.step()
    bench.wait(0.25)
    bench.ask("Ada", num_new=1)
    assert bench.queue.served() == {"Ada": 11, "Ben": 11}
    bench.ask("Cem")
    assert bench.queue.served()["Cem"] == 11


def test_add_lets_nobody_save_up_over_many_short_pauses() -> None:
    bench = Bench(num_easy=1)
    bench.ask("Ben", num_new=2000)
    for _ in range(40):
        bench.ask("Ada", num_new=1)
        while "Ada" in bench.running() or len(bench.queue):
            bench.step()
        for _ in range(30):
            bench.step()
    bench.ask("Ada", num_new=1)
    counters = bench.queue.served()
    assert counters["Ben"] - counters["Ada"] <= 2, "one visit's tokens"


@pytest.mark.parametrize(("visit", "span"), [(0.0, 0.25), (0.5, 1.0), (60.0, 2.0)])
def test_who_is_awaited_how_long_depends_on_the_visit(visit: float, span: float) -> None:
    """Ben waits for Ada with all but one place; when she is away, he has them all but the last eighth."""
    bench = Bench(max_running=16, num_easy=1)
    ada = bench.ask("Ada", num_new=2)
    bench.step()
    bench.wait(visit - bench.seconds)
    while ada.state.value != "finished":
        bench.step()
    left = bench.seconds
    for _ in range(40):
        bench.ask("Ben", prompt_len=8, num_new=5000)
    while bench.seconds < left + span - 0.05:
        bench.step()
        assert bench.running() == ["Ben"]
    while bench.seconds < left + 1.1 * span + 0.05:
        bench.step()
    assert bench.running() == ["Ben"] * 14


def test_who_is_awaited_keeps_nobody_from_a_first_place() -> None:
    bench = Bench(max_running=16, num_easy=1)
    bench.ask("Ada", num_new=5)
    for _ in range(6):
        bench.step()
    for account in ("Ben", "Cem", "Dai"):
        for _ in range(2):
            bench.ask(account, prompt_len=20, num_new=200)
    for _ in range(5):
        bench.step()
    assert bench.running() == ["Ben", "Cem", "Dai"], "Ada is behind all of them and may come back"


def test_add_after_everybody_left_lifts_to_the_last() -> None:
    bench = Bench()
    bench.ask("Ada", num_new=2)
    bench.ask("Ben", num_new=30)
    while bench.scheduler.has_work:
        bench.step()
    bench.wait(3600)
    bench.ask("Ada")
    bench.ask("Cem")
    bench.ask("Ben")
    assert bench.queue.served() == {"Ada": 31, "Ben": 31, "Cem": 31}


def test_candidates_hold_back_who_is_ahead_beyond_the_easy_places() -> None:
    bench = Bench(max_running=64, num_easy=3)
    bench.ask("Ada", num_new=100)
    for _ in range(40):
        bench.ask("Ben", num_new=100)
    for _ in range(50):
        bench.step()
    assert sorted(map(str, bench.running())) == ["Ada", "Ben", "Ben"]
    for account in ("Cem", "Dai", "Eva"):
        bench.ask(account)
    assert len(bench.step().admitted) == 3


def test_candidates_keep_the_last_places_for_newcomers() -> None:
    bench = Bench(max_running=8, num_easy=8)
    for _ in range(40):
        bench.ask("Ada", num_new=500)
    for _ in range(20):
        bench.step()
    assert bench.running() == ["Ada"] * 7
    request = bench.ask("Ben", num_new=1)
    bench.step()
    assert request.num_outputs == 1


def test_remove_waiting_running_and_preempted_requests() -> None:
    bench = Bench(num_blocks=6, max_running=3)
    requests = [bench.ask(account, 8, 12) for account in ("Ada", "Ben", "Ben", "Cem")]
    while not (plan := bench.step()).preempted:
        pass
    assert set(plan.preempted) <= set(requests)
    for request in (*plan.preempted, *requests):
        if request.state.value != "finished":
            bench.scheduler.remove(request)
            bench.scheduler.check()
    assert not bench.scheduler.has_work
    assert not len(bench.queue)


def test_restart_keeps_counters_and_charges_no_prompt_twice() -> None:
    bench = Bench(max_running=2)
    requests = [bench.ask(account, 10, 4) for account in ("Ada", "Ben", "Cem")]
    bench.step()
    bench.scheduler.restart(requests)
    bench.scheduler.check()
    assert len(bench.queue) == 3
    while bench.scheduler.has_work:
        bench.step()
    served = bench.queue.served()
    assert served == {"Ada": 14, "Ben": 14, "Cem": 14}


def test_window_lets_in_only_its_requests() -> None:
    bench = Bench(max_running=4, num_easy=1)
    for account in ("Ada", "Ben", "Ben", "Ben", "Cem"):
        bench.ask(account, num_new=2)
    bench.scheduler.window = (2, 3)
    admitted: list[Request] = []
    while len(admitted) < 2:
        admitted += bench.step().admitted
    assert [request.request_id for request in admitted] == [2, 3]


class WatchedSimulation(Simulation):
    """Counts services itself, and looks at every pair of accounts while both wait."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        self.queue = self.scheduler.waiting
        self.service = dict.fromkeys({job.account for job in workload.jobs}, 0)
        self.admitted: set[int] = set()
        self.spans: dict[tuple[str, str], list[int]] = {}  # of pairs that both wait: lowest and highest difference
        self.most_uneven = 0
        longest = max(job.prompt_len for job in workload.jobs)
        answer = max(job.room for job in workload.jobs)
        self.bound = 2 * (longest + min(workload.max_running, workload.budget) * answer)

    def _check_plan(self, plan: Plan) -> None:
        super()._check_plan(plan)
        found = {hit.request.request_id: hit.num_tokens for hit in plan.hits}
        for request in plan.admitted:
            if request.request_id not in self.admitted:
                self.admitted.add(request.request_id)
                self.service[request.account] += request.prompt_len - found.get(request.request_id, 0)
        for chunk in plan.chunks:
            self.service[chunk.request.account] += chunk.samples

    def _step(self) -> None:
        served, service = self.queue.served(), dict(self.service)
        super()._step()
        gained = {name: count - served[name] for name, count in self.queue.served().items()}
        assert gained == {name: self.service[name] - service[name] for name in gained}, "what is served is charged"
        waiting = {r.account for r in self.queue if r.request_id not in self.admitted}
        for pair in itertools.combinations(sorted(self.service, key=str), 2):
            if waiting.issuperset(pair):
                apart = self.service[pair[0]] - self.service[pair[1]]
                span = self.spans.setdefault(pair, [apart, apart])
                span[:] = min(span[0], apart), max(span[1], apart)
                self.most_uneven = max(self.most_uneven, span[1] - span[0])
                assert span[1] - span[0] <= self.bound, f"{pair} are {span} apart, at most {self.bound} may be"
            else:
                self.spans.pop(pair, None)


def draw_class(rng: random.Random) -> Workload:
    """Three accounts, one of them with most of the requests."""
    workload = draw_workload(rng)
    names = ["Ada", "Ben", "Cem"] + ["Cem"] * rng.randint(0, 6)
    longest = max(job.prompt_len + job.room for job in workload.jobs)
    jobs = [replace(rng.choice(workload.jobs), arrival=rng.choice((0, rng.randint(0, 40)))) for _ in range(60)]
    jobs = [replace(job, account=rng.choice(names), abort_at=None) for job in jobs]
    return replace(
        workload,
        jobs=tuple(sorted(jobs, key=lambda job: job.arrival)),
        num_blocks=max(workload.num_blocks, longest),
        num_easy=rng.choice((1, 4, 16)),
    )


def test_random_classes_stay_within_the_bound(rng: random.Random) -> None:
    uneven = []
    for _ in range(25):
        simulation = WatchedSimulation(draw_class(rng))
        simulation.run()
        uneven.append(simulation.most_uneven / simulation.bound)
    print("largest part of the bound", max(uneven))
    assert max(uneven) > 0.02, "no two accounts ever waited together"


def test_first_come_breaks_the_bound_that_the_fair_queue_keeps() -> None:
    """What the bound is worth: one account's 200 requests before another's 10."""
    jobs = [Job(0, 4, 4, 4, None, "Cem")] * 200 + [Job(0, 4, 4, 4, None, "Ada")] * 10
    simulation = WatchedSimulation(Workload(64, 4, 2, 16, tuple(jobs), None, 1))
    simulation.run()
    assert simulation.most_uneven <= simulation.bound == 2 * (4 + 2 * 4)


class Student:
    """Keeps so many questions open, but for a while between an answer and the next question (seconds, on average)."""

    def __init__(self, name: str, rng: random.Random, num_open: int, pause: float) -> None:
        self.name, self._rng, self._pause = name, rng, pause
        self.prompt_len, self.num_new = rng.randint(10, 60), rng.randint(16, 48)
        self._open: list[Request] = []
        self.coming = [rng.random() * pause for _ in range(num_open)]  # moments

    def keep_busy(self, bench: Bench) -> None:
        ended = [request for request in self._open if request.state.value == "finished"]
        self._open = [request for request in self._open if request not in ended]
        self.coming += [bench.seconds + self._rng.expovariate(1 / self._pause) for _ in ended]
        due = [moment for moment in self.coming if moment <= bench.seconds]
        self.coming = [moment for moment in self.coming if moment > bench.seconds]
        for _ in due:
            about = self._rng.uniform(0.7, 1.3)
            self._open.append(bench.ask(self.name, int(self.prompt_len * about) + 1, int(self.num_new * about) + 1))


def make_students(rng: random.Random, count: int, *, num_open: int = 1, pause: float = 0.02) -> list[Student]:
    """The last is a flood; it comes a second later, or what it takes of an empty machine would count against it."""
    students = [Student(f"student {i}", rng, num_open, pause) for i in range(count - 1)]
    flood = Student("flood", rng, 40, 0.02)
    flood.coming = [1.0 + moment for moment in flood.coming]
    return [*students, flood]


def students_step(bench: Bench, students: list[Student]) -> Plan:
    for student in students:
        student.keep_busy(bench)
    if not bench.scheduler.has_work:
        bench.wait(0.01)
    return bench.step()


def serve_class(bench: Bench, students: list[Student], seconds: float) -> dict[str, int]:
    """Tokens of each after all have begun: service, not counters, which are lifted."""
    served: Counter[str] = Counter()
    admitted: set[int] = set()
    while bench.seconds < 1.1 * seconds:
        plan = students_step(bench, students)
        for request in plan.admitted:
            if request.request_id not in admitted and bench.seconds > 0.1 * seconds:
                served[request.account] += request.prompt_len
            admitted.add(request.request_id)
        if bench.seconds > 0.1 * seconds:
            served.update(chunk.request.account for chunk in plan.chunks if chunk.samples)
    return {student.name: served[student.name] for student in students}


@pytest.mark.parametrize("num_open", [1, 2])
@pytest.mark.parametrize(
    ("num_students", "max_running", "pause"),
    [(30, 8, 0.2), (30, 128, 0.02), (30, 128, 0.2), (10, 128, 0.05)],  # pauses of a fifth of an answer's time at most
)
def test_students_get_equal_shares_beside_a_flood(
    rng: random.Random, num_students: int, max_running: int, pause: float, num_open: int
) -> None:
    bench = Bench(max_running=max_running, num_blocks=16384, num_easy=1)
    served = serve_class(bench, make_students(rng, num_students, num_open=num_open, pause=pause), 25.0)
    fair = sum(served.values()) / len(served)
    print({name: round(count / fair, 3) for name, count in served.items()}, bench.num_steps)
    assert all(0.8 * fair <= count <= 1.2 * fair for count in served.values())


def test_students_who_are_slow_to_ask_lose_nothing_to_a_flood(rng: random.Random) -> None:
    """They pause about as long as they are answered. (Who has less than an equal part then had no question open.)"""
    bench = Bench(max_running=128, num_blocks=16384, num_easy=1)
    served = serve_class(bench, make_students(rng, 30, pause=0.6), 40.0)
    fair = sum(served.values()) / len(served)
    print({name: round(count / fair, 3) for name, count in served.items()})
    assert served["flood"] <= 1.2 * fair


def test_students_who_think_leave_the_machine_to_the_flood(rng: random.Random) -> None:
    """Ten students ask every half minute: held back while one is answered, the flood has the machine otherwise."""
    beside = serve_class(Bench(max_running=64, num_easy=1), make_students(rng, 11, pause=30.0), 20.0)
    alone = serve_class(Bench(max_running=64, num_easy=1), make_students(rng, 1), 20.0)
    print(beside, alone)
    assert beside["flood"] >= 0.8 * sum(beside.values())
    assert beside["flood"] >= 0.2 * alone["flood"], "and is not held to the one easy place"


@pytest.mark.parametrize("max_running", [8, 64])
def test_who_asks_once_in_a_while_is_not_kept_waiting(rng: random.Random, max_running: int) -> None:
    """Thirty busy ones, one of them a flood: the seldom one's first token comes with the next place."""
    bench = Bench(max_running=max_running, num_blocks=8192, num_easy=1)
    students = make_students(rng, 30)
    for round_number in range(6):
        while round_number == 0 and len(bench.queue.served()) * min(bench.queue.served().values(), default=0) == 0:
            students_step(bench, students)
        for _ in range(rng.randint(80, 140)):  # others get more than it does meanwhile
            students_step(bench, students)
        seldom = bench.ask("seldom", 20, 5)
        before, ahead = bench.num_steps, list[Request]()
        while not seldom.num_outputs:
            ahead += students_step(bench, students).admitted
        ahead = ahead[: ahead.index(seldom)]
        print(round_number, bench.num_steps - before, len(ahead))
        assert all(request.request_id < seldom.request_id for request in ahead), "who asked later came first"
        assert sum(request.account == "flood" for request in ahead) <= 1
        assert max_running == 8 or bench.num_steps - before == 1
