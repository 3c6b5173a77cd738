"""What a replica says arrives with the same meaning."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from lmcourse.config import ChatTemplateConfig, GenerationConfig, TurbomindEngineConfig
from lmcourse.engine import AccountLoad, Order, StepOutput
from lmcourse.errors import ConfigError, LmcourseError, PromptError, RequestFailedError
from lmcourse.replicas.board import Board, Note, add_up, add_up_loads
from lmcourse.replicas.carried import CarriedMask, carry
from lmcourse.replicas.messages import piece_of, refused
from lmcourse.replicas.settings import FrontTask, ReplicaSettings
from lmcourse.serve.class_roster import Quota, Student
from lmcourse.serve.grammar import Grammar
from lmcourse.serve.settings import ServerSettings


@pytest.mark.parametrize("kind", [PromptError, ConfigError, LmcourseError])
def test_refused_brings_the_error_back_in_all_its_parts(kind) -> None:
    error = kind("too long", expected="at most 3", got=5, where="prompt", next_step="shorten it")
    back = refused(error).error()
    assert type(back) is kind
    assert str(back) == str(error)


def test_refused_with_a_class_that_takes_more_is_told_as_a_plain_error() -> None:
    back = refused(RequestFailedError("it broke", request_ids=(3,))).error()
    assert type(back) is LmcourseError
    assert back.what == "it broke"


def test_piece_of_an_output_loses_nothing_but_its_number() -> None:
    output = StepOutput(17, [1, 2], "ab", "stop", [{1: -0.5}, {2: -0.1}])
    assert piece_of(output).output() == StepOutput(0, [1, 2], "ab", "stop", [{1: -0.5}, {2: -0.1}])


def test_carry_takes_a_grammar_and_refuses_another_mask() -> None:
    gen = GenerationConfig(temperature=0.5, stop_words=["x"])
    carried = carry(Order([1, 2], gen, frozenset({9, 4}), CarriedMask(Grammar("start: /a/"))), gen)
    assert (carried.prompt_ids, carried.stop_ids, carried.grammar) == ([1, 2], [4, 9], Grammar("start: /a/"))
    assert GenerationConfig(**carried.gen) == gen

    class Other:
        def allowed(self, output_ids):
            raise AssertionError

    with pytest.raises(LmcourseError, match="cannot be sent"):
        carry(Order([1], gen, mask=Other()), gen)
    with pytest.raises(LmcourseError, match="where the model runs"):
        CarriedMask(Grammar("start: /a/")).allowed([1])


def test_front_task_survives_the_pipe() -> None:
    task = FrontTask(
        "tiny-chat", "127.0.0.1:1", 3, tls=("a", "b"), engine=TurbomindEngineConfig(session_len=77),
        template=ChatTemplateConfig("internlm2"),
        server=ServerSettings(api_keys=("k", "l"), max_queue=5, students=(Student("Ada", "a", Quota(tokens_total=9)),)),
        replicas=ReplicaSettings(min_replicas=1, max_replicas=3),
    )  # fmt: skip
    line = task.to_json()
    assert "\n" not in line
    assert json.loads(line)["server"]["api_keys"] == ["k", "l"]
    assert FrontTask.from_json(line) == task


@pytest.mark.parametrize(
    "wrong",
    [{"min_replicas": 0}, {"min_replicas": 3, "max_replicas": 2}, {"routing": "random"}, {"patience_seconds": -1}],
)
def test_replica_settings_out_of_range_are_refused(wrong) -> None:
    with pytest.raises(ConfigError):
        ReplicaSettings(**wrong)


def note(name: str, **stats: int) -> Note:
    zero = asdict(add_up([]))
    return Note(name, 1, "127.0.0.1", 0, 8, zero | {"session_len": 100, "tokens_per_block": 64} | stats)


def test_board_adds_up_what_is_on_it_and_counts_generations() -> None:
    board = Board()
    board.post(note("a", num_running=2, num_blocks=10, session_len=90))
    board.post(note("b", num_running=3, num_blocks=10))
    total = add_up(board.read().notes.values())
    assert (total.num_running, total.num_blocks, total.session_len, total.tokens_per_block) == (5, 20, 90, 64)
    board.take_down("a")
    board.take_down("nobody")
    assert set(board.read().notes) == {"b"}
    assert board.restart() == 1
    assert board.read().generation == 1
    board.post(Note("c", 1, "n", 4, 8, {}))
    assert board.restart() == 5


def test_board_calls_silent_who_broke_or_says_nothing() -> None:
    now = [100.0]
    board = Board(lambda: now[0])
    for name in ("a", "b", "c"):
        board.post(note(name))
    now[0] += 6
    board.post(note("b"))
    board.post(replace(note("c"), broken=True))
    view = board.read()
    assert (set(view.notes), view.silent) == ({"b"}, {"c"}), "a is late"
    now[0] += 5
    assert board.read().silent == {"a", "c"}
    board.post(note("a"))
    board.take_down("b")
    view = board.read()
    assert (set(view.notes), view.silent) == ({"a"}, {"c"})
    now[0] += 7200
    assert board.read().silent == frozenset(), "forgotten"


def test_add_up_loads_sums_by_account() -> None:
    loads = [{"Ada": AccountLoad(1, 2, 3, 4), None: AccountLoad(1)}, {"Ada": AccountLoad(10, 20, 30, 40)}]
    notes = [replace(note("x"), loads={name: asdict(load) for name, load in each.items()}) for each in loads]
    assert add_up_loads(notes) == {"Ada": AccountLoad(11, 22, 33, 44), None: AccountLoad(1)}
