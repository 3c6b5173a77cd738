"""Alike beginnings meet, loads stay within the cap, a replica that goes moves nobody else's requests; a class."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter

import pytest

from lmcourse.engine.blocks import BlockManager
from lmcourse.engine.fair_queue import FairQueue
from lmcourse.engine.request import Request
from lmcourse.engine.scheduler import Scheduler
from lmcourse.replicas.routing import Homes, order_replicas, prefix_key


@pytest.fixture
def rng() -> random.Random:
    seed = random.SystemRandom().randrange(2**32)
    print("seed", seed)
    return random.Random(seed)


def test_prefix_key_is_that_of_the_first_full_blocks_alone(rng) -> None:
    first = [rng.randrange(92_544) for _ in range(128)]
    key = prefix_key(first, 64)
    assert key is not None
    assert all(prefix_key([*first, *range(n)], 64) == key for n in (1, 63, 64, 500))
    other = list(first)
    other[rng.randrange(128)] += 1
    assert prefix_key(other, 64) != key
    assert prefix_key(first[:63], 64) is None
    assert prefix_key(first[:64], 64) == prefix_key(first[:100], 64) != key


def test_order_replicas_with_a_key_is_stable_when_another_replica_goes(rng) -> None:
    names = [f"r{i}" for i in range(7)]
    keys = [rng.randbytes(16) for _ in range(300)]
    before = {key: order_replicas(key, dict.fromkeys(names, 0)) for key in keys}
    gone = rng.choice(names)
    for key, order in before.items():
        left = order_replicas(key, dict.fromkeys([name for name in names if name != gone], 0))
        assert left == [name for name in order if name != gone]
    firsts = Counter(order[0] for order in before.values())
    assert set(firsts) == set(names)  # 300 keys over 7: nobody is left out (chance below 1e-18)


def test_order_replicas_caps_the_load_of_a_popular_prefix(rng) -> None:
    names = [f"r{i}" for i in range(4)]
    key = rng.randbytes(16)
    loads = dict.fromkeys(names, 0)
    for _ in range(400):
        loads[order_replicas(key, loads)[0]] += 1
    assert max(loads.values()) <= math.floor(1.25 * 400 / 4) + 1
    assert loads[order_replicas(key, dict.fromkeys(names, 0))[0]] == max(loads.values())


def test_order_replicas_without_a_key_takes_the_least_loaded(rng) -> None:
    loads = {f"r{i}": load for i, load in enumerate(rng.sample(range(100), 9))}
    assert order_replicas(None, loads) == sorted(loads, key=loads.__getitem__)


@pytest.mark.parametrize("key", [None, b"a prefix"])
def test_order_replicas_puts_those_to_avoid_last(rng, key) -> None:
    loads = {f"r{i}": rng.randrange(5) for i in range(6)}
    avoid = set(rng.sample(sorted(loads), 2))
    order = order_replicas(key, loads, avoid)
    assert set(order[-2:]) == avoid
    assert order_replicas(key, {}, avoid) == []


def test_homes_keep_an_account_where_it_works_while_others_work_elsewhere() -> None:
    homes = Homes()
    at_work = {"a": Counter({"Ben": 1}), "b": Counter({"Cem": 1, "Dai": 1})}
    for _ in range(40):
        name = homes.order("Ada", at_work, ["b", "a"], ())[0]
        at_work[name]["Ada"] += 1
    assert (at_work["a"]["Ada"], at_work["b"]["Ada"]) == (40, 0)


def test_homes_give_an_account_every_replica_that_nobody_else_uses() -> None:
    homes = Homes()
    at_work = {name: Counter() for name in "abc"}
    at_work["b"]["Ben"] = 1
    for _ in range(40):
        at_work[homes.order("Ada", at_work, ["a", "b", "c"], ())[0]]["Ada"] += 1
    assert [at_work[name]["Ada"] for name in "abc"] == [20, 0, 20]


def test_homes_count_who_asks_again_in_a_moment() -> None:
    now = [0.0]
    homes = Homes(lambda: now[0])
    assert homes.order("Ada", {"a": Counter(), "b": Counter({"Ben": 1})}, ["a", "b"], ())[0] == "a"
    now[0] += 1.9
    idle = {"a": Counter({"Ada": 5}), "b": Counter()}
    assert homes.order("Ada", idle, ["a", "b"], ())[0] == "a", "Ben may be back"
    now[0] += 0.2
    assert homes.order("Ada", idle, ["a", "b"], ())[0] == "b", "Ben is away"


def test_homes_move_when_the_replica_is_gone_or_to_be_avoided() -> None:
    homes = Homes()
    at_work = {"a": Counter(), "b": Counter({"Ben": 1})}
    assert homes.order("Ada", at_work, ["a", "b"], ()) == ["a", "b"]
    assert homes.order("Ada", at_work, ["a", "b"], {"a"}) == ["b", "a"]
    assert homes.order("Ada", {"b": Counter({"Ben": 1})}, ["b"], ()) == ["b"]
    assert homes.order("Ada", {}, [], ()) == []
    assert homes.order("Ada", at_work, ["a", "b"], {"a", "b"})[0] == "a", "all are to be avoided: as without"


class Replica:
    """A scheduler with a fair queue of eight places, whose steps take as long as there are answers in it."""

    def __init__(self) -> None:
        self.now = 0.0
        queue = FairQueue(lambda: self.now, num_easy=1)
        self.scheduler = Scheduler(BlockManager(4096, 16), max_running=8, max_tokens_per_step=2048, waiting=queue)

    def step(self) -> list[Request]:
        """What has ended."""
        plan = self.scheduler.schedule()
        self.scheduler.apply(plan)
        self.scheduler.record_launched(plan)
        self.now += 0.005 + 0.001 * plan.num_tokens
        ended = []
        for chunk in plan.chunks:
            if chunk.samples:
                chunk.request.append(7)
                if chunk.request.num_tokens == chunk.request.max_tokens:
                    ended.append(chunk.request)
                    self.scheduler.remove(chunk.request)
        return ended


def test_class_behind_two_replicas_gets_equal_shares_beside_a_flood(rng) -> None:
    """Twenty students with one question open, one with forty; each asks again at once."""
    replicas = {name: Replica() for name in "ab"}
    homes, ids = Homes(lambda: min(replica.now for replica in replicas.values())), itertools.count()
    at_work = {name: Counter() for name in replicas}
    served = Counter()

    def ask(account: str) -> None:
        loads = {name: work.total() for name, work in at_work.items()}
        name = homes.order(account, at_work, order_replicas(None, loads), ())[0]
        request = Request(next(ids), [1] * rng.randint(5, 30), 0, account=account)
        request.max_tokens = request.prompt_len + rng.randint(5, 30)
        at_work[name][account] += 1
        replicas[name].scheduler.add(request)

    students = [f"student {i}" for i in range(20)]
    for account in [*students[:7], *["flood"] * 40, *students[7:]]:
        ask(account)
    while min(replica.now for replica in replicas.values()) < 60:
        name = min(replicas, key=lambda name: replicas[name].now)  # clocks stay together
        for request in replicas[name].step():
            at_work[name] = +(at_work[name] - Counter({request.account: 1}))
            served[request.account] += len(request.token_ids) if replicas[name].now > 10 else 0
            ask(request.account)
    fair = served.total() / len(served)
    print({account: round(count / fair, 3) for account, count in served.items()})
    assert len(served) == 21
    assert all(0.8 * fair <= count <= 1.2 * fair for count in served.values())
