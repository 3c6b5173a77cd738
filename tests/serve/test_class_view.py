"""The snapshot against a count of its own, and what it costs with three hundred students."""

from __future__ import annotations

import json

from lmcourse.engine import AccountLoad, EngineStats
from lmcourse.serve.class_quotas import Account
from lmcourse.serve.class_roster import Quota, Student
from lmcourse.serve.class_view import Moment, snapshot_in_portions, take_snapshot
from lmcourse.serve.class_work import Tally
from lmcourse.serve.schema import ClassAnswer

STATS = EngineStats(
    num_running=3, num_waiting=2, num_blocks=100, num_free_blocks=50, num_cached_blocks=10, tokens_per_block=64,
    session_len=1024, weight_bytes=1, kv_bytes=1, num_steps=1, num_computed_tokens=1, num_sampled_tokens=1,
    num_preemptions=0,
)  # fmt: skip


class _Clock:
    now = 5000.0

    def __call__(self):
        return self.now


def _moment(now, loads, written):
    return Moment(now=now, model="m", started_at=7, places=4, stats=STATS, loads=loads, written=written)


def test_snapshot_counts_everybody_and_adds_up(rng):
    clock, written = _Clock(), Tally()
    names = [f"student {n}" for n in range(9)]
    accounts = [Account(Student(name, f"sk-{name}", Quota(tokens_per_minute=10_000)), clock) for name in names]
    works = [account.open(2) for account in accounts[:6]]
    spent: dict[str, list[tuple[float, int]]] = {name: [] for name in [*names, "others"]}
    for _ in range(500):
        clock.now += rng.uniform(0, 0.4)
        place, num_tokens = rng.randrange(7), rng.randrange(4)
        if place == 6:  # somebody in no roster
            spent["others"].append((clock.now, num_tokens))
        else:
            accounts[place].write(works[place][0], num_tokens)
            spent[names[place]].append((clock.now, num_tokens))
        written.add(clock.now, num_tokens)
    loads = {names[0]: AccountLoad(2, 1, 40, 99), None: AccountLoad(1, 1, 7, 9)}
    found = take_snapshot(_moment(clock.now, loads, written), accounts)
    ClassAnswer.model_validate(found, strict=True)

    def within(name, seconds):
        return sum(count for at, count in spent[name] if int(clock.now) - seconds <= int(at) < int(clock.now))

    rows = {row["name"]: row for row in found["students"]} | {"others": found["others"]}
    all_in_ten = sum(within(name, 10) for name in spent)
    for name, row in rows.items():
        assert row["tokens_last_minute"] == within(name, 60) == round(2 * sum(row["history"]))
        assert row["tokens_per_second"] == within(name, 10) / 10
        assert abs(row["throughput_share"] - within(name, 10) / max(1, all_in_ten)) < 1e-4
    assert found["tokens_last_minute"] == sum(within(name, 60) for name in spent)
    first = rows[names[0]]
    assert (first["running"], first["waiting"], first["blocks"], first["pool_share"]) == (2, 1, 40, 0.4)
    assert [answer["tokens"] for answer in first["answers"]] == [sum(n for _, n in spent[names[0]]), 0]
    assert found["others"]["blocks"] == 7
    assert found["pool"] == {"blocks": 100, "used": 40, "kept": 10, "free": 50, "tokens_per_block": 64}
    minutes = [row["tokens_last_minute"] for row in found["students"]]
    assert minutes == sorted(minutes, reverse=True)


def test_snapshot_of_a_class_that_never_asked():
    accounts = [Account(Student(name, name, Quota())) for name in "ba"]
    found = take_snapshot(_moment(1.0, {}, Tally()), accounts)
    ClassAnswer.model_validate(found, strict=True)
    assert [row["name"] for row in found["students"]] == ["a", "b"]
    assert found["students"][0]["quotas"] == {}
    assert found["tokens_per_second"] == 0


def test_snapshot_of_a_large_class_lets_others_work_meanwhile():
    accounts = [Account(Student(f"student {n}", f"sk-{n}", Quota())) for n in range(300)]
    portions = snapshot_in_portions(_moment(1.0, {}, Tally()), accounts)
    assert len(list(portions)) == 12
    assert len(take_snapshot(_moment(1.0, {}, Tally()), accounts)["students"]) == 300


def test_snapshot_shows_eight_answers_of_a_flood_and_no_key():
    account = Account(Student("Ada", "sk-secret", Quota(max_concurrent=1000)))
    account.open(1000)
    found = take_snapshot(_moment(account._clock() + 3, {}, Tally()), [account])
    (row,) = found["students"]
    assert (len(row["answers"]), row["num_answers"]) == (8, 1000)
    assert row["quotas"]["max_concurrent"] == {"limit": 1000, "left": 0}
    assert "secret" not in json.dumps(found)
