"""The front with replicas in this process, which die on command: no Ray, the rest is real."""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
import threading
from dataclasses import asdict
from pathlib import Path

import httpx
import openai
import pytest

sys.path.append(str(Path(__file__).parents[1]))

from clear_answers import is_clear

from lmcourse import GenerationConfig, TurbomindEngineConfig, pipeline
from lmcourse.config import ChatTemplateConfig
from lmcourse.engine import Order
from lmcourse.engine.fair_queue import FairQueue
from lmcourse.errors import MachineError
from lmcourse.replicas.board import Board, View
from lmcourse.replicas.engine_replica import Duty, EngineReplica
from lmcourse.replicas.front import front_pipeline, make_front
from lmcourse.replicas.front_engine import FrontEngine
from lmcourse.replicas.messages import Broken, GoneError, Piece, Taken
from lmcourse.replicas.settings import FrontTask, ReplicaSettings
from lmcourse.serve.app import service_of
from lmcourse.serve.class_roster import Quota, Student
from lmcourse.serve.running import running
from lmcourse.serve.settings import ServerSettings

STUCK_SECONDS = 3.0  # a process' first step may take one
CONFIG = TurbomindEngineConfig(session_len=512, max_batch_size=8, cache_max_entry_count=100, enable_prefix_caching=True)


class _Call:
    def __init__(self, call):
        self.remote = call


class LocalBoard:
    """A Board with an actor's way of calling."""

    def __init__(self) -> None:
        self.board = Board()
        self.post, self.take_down = _Call(self.board.post), _Call(self.board.take_down)


class LocalReplicas:
    """Two replicas; `deaths` says after how many pieces each of the next answers dies (None: not at all)."""

    def __init__(self) -> None:
        self.board = LocalBoard()
        self.by_name = {
            name: EngineReplica(
                "tiny-chat", CONFIG, ChatTemplateConfig(), Duty(stuck_seconds=STUCK_SECONDS), self.board, (name, "here")
            )
            for name in ("a", "b")
        }
        self.deaths: list[int | None] = []
        self.choose = random.choice
        self.asked: list[tuple[bytes | None, set[str], str]] = []

    def view(self) -> View:
        return self.board.board.read()

    def close(self) -> None:
        for replica in self.by_name.values():
            replica.leave()
            asyncio.run(replica._engine.aclose())
            replica._pipe.close()

    async def answer(self, order, key, avoid):
        left = sorted(set(self.by_name) - set(avoid)) or sorted(self.by_name)
        name = self.choose(left)
        self.asked.append((key, set(avoid), name))
        death = self.deaths.pop(0) if self.deaths else None
        num_pieces = 0
        async for message in self.by_name[name].answer(order, key=key, avoid=avoid):
            num_pieces += isinstance(message, Piece)
            if death is not None and num_pieces > death:
                raise GoneError("killed by the test")
            yield message


@pytest.fixture(scope="module")
def replicas():
    made = LocalReplicas()
    yield made
    made.close()


@pytest.fixture(scope="module")
def offline():
    with pipeline("tiny-chat", backend_config=CONFIG) as made:
        yield made


@pytest.fixture
def front(replicas, request):
    """A client of a front; the parameter is ReplicaSettings' keywords."""
    replicas.deaths.clear()
    replicas.asked.clear()
    settings = ReplicaSettings(**{"patience_seconds": 3, **getattr(request, "param", {})})
    task = FrontTask(
        "tiny-chat", "", 0, engine=CONFIG, server=ServerSettings(grace_seconds=1, api_keys=("k",)), replicas=settings
    )
    app = make_front(task, replicas, replicas.view)
    with running(app) as server, openai.OpenAI(base_url=f"{server.url}/v1", api_key="k", max_retries=0) as client:
        client.service = service_of(app)
        yield client


def prompts(offline, count: int) -> list[str]:
    seed = random.SystemRandom().randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    drawn = (
        f"What is {rng.randrange(50)} plus {rng.randrange(50)}? Tell {rng.randrange(1000)} words."
        for _ in itertools.count()
    )
    gen = GenerationConfig(max_new_tokens=40, logprobs=2)
    return list(itertools.islice((prompt for prompt in drawn if is_clear(offline(prompt, gen))), count))


def chat(client, prompt, **more):
    return client.chat.completions.create(
        model="tiny-chat", messages=[{"role": "user", "content": prompt}], max_tokens=40, temperature=0, **more
    )


def text_of(stream) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def test_front_answers_as_the_pipeline_does(front, offline) -> None:
    for prompt in prompts(offline, 3):
        expected = offline(prompt, GenerationConfig(max_new_tokens=40)).text
        assert chat(front, prompt).choices[0].message.content == expected
        assert text_of(chat(front, prompt, stream=True)) == expected
    assert [model.id for model in front.models.list()] == ["tiny-chat"]


@pytest.mark.parametrize("death", [0, 1, 3])
@pytest.mark.parametrize("stream", [False, True])
def test_front_goes_on_elsewhere_when_a_replica_dies(front, replicas, offline, death, stream) -> None:
    (prompt,) = prompts(offline, 1)
    replicas.deaths[:] = [death, death]
    answer = chat(front, prompt, stream=stream)
    text = text_of(answer) if stream else answer.choices[0].message.content
    assert text == offline(prompt, GenerationConfig(max_new_tokens=40)).text
    first, second, third = replicas.asked
    assert second[1] == {first[2]}
    assert third[1] == {first[2], second[2]}
    assert front.service.engine.losses.num_lost == 2
    assert front.service.engine.losses.num_resumed == 1


@pytest.fixture
def hanging():
    """Replicas of which "a", that is asked first, hangs after `num_steps`. Mended in the end."""
    made, mended = LocalReplicas(), threading.Event()
    made.choose = min
    step = made.by_name["a"]._pipe.engine.step
    steps = itertools.count()

    def step_and_hang():
        if next(steps) >= made.num_steps:
            mended.wait(300)
        return step()

    made.by_name["a"]._pipe.engine.step = step_and_hang
    yield made
    mended.set()
    made.close()


@pytest.mark.parametrize("num_steps", [0, 5])
def test_front_goes_on_elsewhere_when_a_step_never_ends(hanging, offline, num_steps) -> None:
    """The replica says so itself after STUCK_SECONDS; Ray Serve would replace it."""
    hanging.num_steps = num_steps
    (prompt,) = prompts(offline, 1)
    for resumes in (num_steps > 0, False):
        app = make_front(hanging_task(resumes), hanging, hanging.view)
        with running(app) as server, openai.OpenAI(base_url=f"{server.url}/v1", api_key="k", max_retries=0) as client:
            text = text_of(chat(client, prompt, stream=True))
            assert text == offline(prompt, GenerationConfig(max_new_tokens=40)).text
    assert [name for _, _, name in hanging.asked] == ["a", "b", "b"]
    with pytest.raises(MachineError, match=f"no step ended within {STUCK_SECONDS:g} s"):
        asyncio.run(hanging.by_name["a"].check_health())
    asyncio.run(hanging.by_name["b"].check_health())


def hanging_task(resumes: bool) -> FrontTask:
    server = ServerSettings(grace_seconds=1, api_keys=("k",))
    return FrontTask("tiny-chat", "", 0, engine=CONFIG, server=server, replicas=ReplicaSettings(resumes=resumes))


def test_front_says_so_where_a_hanging_replica_has_begun_an_answer(hanging) -> None:
    hanging.num_steps = 5
    app = make_front(hanging_task(False), hanging, hanging.view)
    with (
        running(app) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="k", max_retries=0) as client,
        pytest.raises(openai.APIError, match="replica that was answering died"),
    ):
        text_of(chat(client, "hello", stream=True))


def test_front_goes_on_elsewhere_when_a_replica_falls_silent(hanging, offline, monkeypatch) -> None:
    """As a stopped process: no news, and connections that stay open."""
    monkeypatch.setattr("lmcourse.replicas.board._SILENT_SECONDS", 4.0)
    hanging.num_steps = 3
    (prompt,) = prompts(offline, 1)
    hanging.by_name["a"]._leaving.set()  # it posts no more
    app = make_front(hanging_task(True), hanging, hanging.view)
    with running(app) as server, openai.OpenAI(base_url=f"{server.url}/v1", api_key="k", max_retries=0) as client:
        assert text_of(chat(client, prompt, stream=True)) == offline(prompt, GenerationConfig(max_new_tokens=40)).text
    assert [name for _, _, name in hanging.asked] == ["a", "b"]


def test_front_goes_on_with_a_sampled_answer_too(front, replicas, offline) -> None:
    (prompt,) = prompts(offline, 1)
    replicas.deaths[:] = [4]
    stream = front.completions.create(
        model="tiny-chat", prompt=prompt, max_tokens=20, temperature=1.0, stream=True, extra_body={"ignore_eos": True}
    )
    ids = [token for chunk in stream for token in chunk.choices[0].token_ids]
    assert len(ids) == 20


@pytest.mark.parametrize("front", [{"resumes": False}], indirect=True)
def test_front_says_so_where_a_begun_answer_may_not_go_on(front, replicas, offline) -> None:
    (prompt,) = prompts(offline, 1)
    replicas.deaths[:] = [2]
    with pytest.raises(openai.APIError, match="replica that was answering died") as caught:
        text_of(chat(front, prompt, stream=True))
    assert caught.value.code == "replica_lost"
    replicas.deaths[:] = [2]
    with pytest.raises(openai.InternalServerError) as refused:
        chat(front, prompt)
    assert refused.value.status_code == 503
    replicas.deaths[:] = [0]  # it had not begun
    assert chat(front, prompt).choices[0].message.content == offline(prompt, GenerationConfig(max_new_tokens=40)).text


def test_front_gives_up_on_a_request_that_kills_whoever_takes_it(front, replicas) -> None:
    replicas.deaths[:] = [0] * 10
    with pytest.raises(openai.InternalServerError, match="every replica that took this request died"):
        chat(front, "hello")
    assert len(replicas.asked) == 4


@pytest.mark.parametrize("front", [{"patience_seconds": 0.3}], indirect=True)
def test_front_without_any_replica_says_503_after_its_patience(front, replicas, monkeypatch) -> None:
    async def none(order, key, avoid):
        await asyncio.sleep(60)
        yield Broken("never")

    monkeypatch.setattr(replicas, "answer", none)
    with pytest.raises(openai.InternalServerError, match="no replica answers") as caught:
        chat(front, "hello")
    assert caught.value.status_code == 503


def test_front_refuses_what_the_engine_refuses(front) -> None:
    with pytest.raises(openai.BadRequestError, match="too long"):
        chat(front, "long " * 2000)
    with pytest.raises(openai.BadRequestError):
        front.completions.create(model="tiny-chat", prompt=[10**7], max_tokens=3)
    with pytest.raises(openai.NotFoundError):
        front.completions.create(model="another", prompt="x")
    with pytest.raises(openai.AuthenticationError):
        chat(front.with_options(api_key="wrong"), "hello")


def test_front_forces_a_grammar_at_the_replica(front) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    shape = {"type": "json_schema", "json_schema": {"name": "number", "schema": schema}}
    text = chat(front, "How many?", response_format=shape).choices[0].message.content
    assert text.startswith('{"n": ')


def test_front_sends_alike_beginnings_with_the_same_key(front, replicas) -> None:
    system = "You are helpful. " * 30
    for question in ("One?", "Two?"):
        front.chat.completions.create(
            model="tiny-chat", max_tokens=2,
            messages=[{"role": "system", "content": system}, {"role": "user", "content": question}],
        )  # fmt: skip
    keys = {key for key, _, _ in replicas.asked}
    assert len(keys) == 1
    assert None not in keys


def test_front_shows_the_sum_of_its_replicas(front, replicas) -> None:
    url = str(front.base_url).removesuffix("/v1/")
    text = httpx.get(f"{url}/metrics", headers={"Authorization": "Bearer k"}).text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    each = [replica._pipe.stats().num_blocks for replica in replicas.by_name.values()]
    assert float(lines["lmcourse_kv_blocks_total"]) == sum(each)
    assert float(lines["lmcourse_replicas"]) == 2
    assert asdict(front.service.engine.stats())["num_waiting"] == 0


def test_front_lets_few_of_one_student_stand_in_the_way_of_others() -> None:
    """Replicas that take one order at a time, in the order in which they are asked."""
    way, asked = asyncio.Lock(), list[str]()

    class Slow:
        async def answer(self, order, key, avoid):
            asked.append(order.account)
            async with way:
                await asyncio.sleep(0.01)
            yield Taken("a")
            yield Piece([1], "", "length", None)

    async def ask_all() -> None:
        pipe = front_pipeline(FrontTask("tiny-chat", "", 0), View)
        engine = FrontEngine(pipe, Slow(), View, ReplicaSettings(), prefixes=False)
        streams = [engine.start(Order([1], GenerationConfig(), account="flood")) for _ in range(20)]
        await asyncio.sleep(0.005)
        assert engine.loads()["flood"].num_waiting == 20
        streams.append(engine.start(Order([1], GenerationConfig(), account="Ada")))
        for stream in streams:
            assert [output.token_ids async for output in stream] == [[1]]
            stream.close()
        assert engine.num_open == 0
        assert engine.loads() == {}

    asyncio.run(ask_all())
    assert asked.count("flood") == 20
    assert asked.index("Ada") <= 3


def ada_of(http: httpx.Client) -> dict:
    students = http.get("/class", headers={"Authorization": "Bearer k"}).json()["students"]
    return next(row for row in students if row["name"] == "Ada")


def test_front_of_a_class_shows_who_asks(replicas) -> None:
    students = (Student("Ada", "sk-ada", Quota(max_concurrent=1)), Student("Ben", "sk-ben", Quota()))
    server = ServerSettings(grace_seconds=1, students=students, instructor_key="k")
    app = make_front(FrontTask("tiny-chat", "", 0, engine=CONFIG, server=server), replicas, replicas.view)
    with running(app) as served, httpx.Client(base_url=served.url, timeout=60) as http:
        body = {"model": "tiny-chat", "prompt": "x", "max_tokens": 400, "ignore_eos": True, "stream": True}
        with http.stream("POST", "/v1/completions", json=body, headers={"Authorization": "Bearer sk-ada"}) as answer:
            lines = answer.iter_lines()  # kept: httpx hangs up when it goes
            next(lines)
            found = http.get("/class", headers={"Authorization": "Bearer k"}).json()
            there = [one._engine for one in replicas.by_name.values() if "Ada" in one._engine.loads()]
            assert [type(one.engine._scheduler.waiting) for one in there] == [FairQueue]
            assert any(ada_of(http)["blocks"] > 0 for _ in lines), "its blocks were never told"
        ada, ben = sorted(found["students"], key=lambda row: row["name"])
        assert (ada["running"], ada["waiting"], ada["num_answers"]) == (1, 0, 1)
        assert (ben["running"], ben["num_answers"]) == (0, 0)
        assert found["pool"]["blocks"] == sum(one._pipe.stats().num_blocks for one in replicas.by_name.values())


def test_front_whose_reader_leaves_frees_the_replica(front, replicas) -> None:
    stream = front.completions.create(
        model="tiny-chat", prompt="x", max_tokens=400, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    stream.close()

    async def idle() -> None:
        async with asyncio.timeout(120):
            while any(replica._pipe.engine.has_work for replica in replicas.by_name.values()):
                await asyncio.sleep(0.02)

    asyncio.run(idle())
    assert front.service.engine.num_open == 0
