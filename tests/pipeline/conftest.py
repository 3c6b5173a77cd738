"""A pipeline over an engine that computes nothing, so that who gets which answer can be tested by itself."""

import dataclasses
import types

import pytest

from lmcourse.bundled import model_path
from lmcourse.engine.answer import StepOutput
from lmcourse.errors import EngineClosedError, PromptError
from lmcourse.pipeline import Pipeline
from lmcourse.text.chat_template import find_template
from lmcourse.text.tokenizer import Tokenizer


@dataclasses.dataclass
class Added:
    """What one request was added with."""

    prompt_ids: list
    gen: object
    stop_ids: frozenset


class FakeEngine:
    """Answers request i with the words i.0, i.1, ...: max_new_tokens of them, one per step and request."""

    def __init__(self, tokenizer, session_len=64):
        self.tokenizer, self.session_len = tokenizer, session_len
        self.spec = types.SimpleNamespace(vocab=4096)
        self.added, self.aborted, self.num_steps = [], [], 0
        self.running = {}
        self.closed, self.encoder = False, None
        self.before_step = lambda: None

    def add(self, prompt_ids, gen, *, stop_ids, mask=None, account=None):
        self._require_open()
        if len(prompt_ids) >= self.session_len:
            raise PromptError("the prompt is too long for the session", expected="less", got=len(prompt_ids))
        self.added.append(Added(list(prompt_ids), gen, stop_ids))
        self.running[len(self.added) - 1] = 0
        return len(self.added) - 1

    def step(self):
        self._require_open()
        self.before_step()
        self.num_steps += 1
        outputs = []
        for request_id, done in list(self.running.items()):
            last = done + 1 >= self.added[request_id].gen.max_new_tokens
            outputs.append(StepOutput(request_id, [done], f"{request_id}.{done} ", "length" if last else None, None))
            self.running[request_id] = done + 1
            if last:
                del self.running[request_id]
        return outputs

    def abort(self, request_id):
        if self.running.pop(request_id, None) is not None:
            self.aborted.append(request_id)

    @property
    def has_work(self):
        self._require_open()
        return bool(self.running)

    def close(self):
        self.closed = True

    def _require_open(self):
        if self.closed:
            raise EngineClosedError("the engine is closed")


@pytest.fixture(scope="session")
def tokenizer():
    return Tokenizer.from_folder(model_path("tiny-chat"))


@pytest.fixture
def fake(tokenizer):
    """A pipeline whose `.engine` is a FakeEngine."""
    pipe = Pipeline(FakeEngine(tokenizer), find_template(None, model_path("tiny-chat")))
    yield pipe
    pipe.close()


@pytest.fixture(scope="session")
def real():
    """The bundled model, whatever it has learned so far."""
    from lmcourse import TurbomindEngineConfig, pipeline

    with pipeline("tiny-chat", backend_config=TurbomindEngineConfig(session_len=96, max_batch_size=3)) as pipe:
        yield pipe
