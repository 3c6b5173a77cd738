"""The keeper, with fronts that die when told to: the spare takes over, and what is asked for is deployed once."""

from __future__ import annotations

import itertools

import pytest

from lmcourse.errors import MachineError
from lmcourse.replicas import keeper as module
from lmcourse.replicas.keeper import Keeper
from lmcourse.replicas.settings import FrontTask


class FakeFront:
    """Answers at once, unless it is stillborn."""

    made: list[FakeFront]
    stillborn = False

    def __init__(self, task: FrontTask) -> None:
        self.status = 1 if self.stillborn else None
        self.answers = self.stopped = False
        self.made.append(self)

    def answer(self) -> None:
        self.answers = self.status is None

    def wait_ready(self, seconds: float) -> bool:
        return self.answers

    def stop(self, seconds: float) -> None:
        self.stopped = True


@pytest.fixture
def fronts(monkeypatch) -> list[FakeFront]:
    made: list[FakeFront] = []
    monkeypatch.setattr(FakeFront, "made", made, raising=False)
    monkeypatch.setattr(module, "Front", FakeFront)
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.001)
    return made


def keeper_of(stop, told, generation=lambda: 0, deploy=lambda generation: None) -> Keeper:
    return Keeper(FrontTask(None, "", 0), generation, deploy, told.append, stop)


def test_keeper_lets_the_spare_take_over_and_starts_another(fronts) -> None:
    told: list[str] = []
    looks = itertools.count()

    def stop() -> bool:
        look = next(looks)
        if look == 5:
            assert [front.answers for front in fronts] == [True, False]
            fronts[0].status = -9
        return look > 10

    keeper_of(stop, told).keep(lambda: None)
    assert [front.answers for front in fronts] == [True, True, False]
    assert all(front.stopped for front in fronts)
    assert "signal 9" in told[0]
    assert "answers again" in told[1]


def test_keeper_replaces_a_spare_that_died(fronts) -> None:
    looks = itertools.count()

    def stop() -> bool:
        look = next(looks)
        if look == 5:
            fronts[1].status = 1
        return look > 10

    keeper_of(stop, []).keep(lambda: None)
    assert [front.answers for front in fronts] == [True, False, False]


def test_keeper_gives_up_where_no_front_lives(fronts, monkeypatch) -> None:
    monkeypatch.setattr(FakeFront, "stillborn", True)
    with pytest.raises(MachineError, match="does not start"):
        keeper_of(lambda: False, []).keep(lambda: None)
    assert all(front.stopped for front in fronts)


def test_keeper_deploys_what_the_board_asks_for_once(fronts) -> None:
    told: list[str] = []
    deployed: list[int] = []
    asked: list[int] = []

    def wanted() -> int:
        asked.append(3)
        return 3

    keeper_of(lambda: len(asked) > 1 and len(told) > 1, told, wanted, deployed.append).keep(lambda: None)
    assert deployed == [3]
    assert "replicas replaced" in told[-1]


def test_keeper_tells_of_replicas_that_cannot_be_replaced_and_goes_on(fronts) -> None:
    told: list[str] = []

    def deploy(generation: int) -> None:
        raise RuntimeError("no room")

    keeper_of(lambda: len(told) > 1, told, lambda: 1, deploy).keep(lambda: None)
    assert "not all replaced: RuntimeError: no room" in told[-1]
    assert fronts[0].answers
