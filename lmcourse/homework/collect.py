"""Collectors: a live pipeline, a command, a web page → evidence of a task.

    record(task, pipe, responses)            a Pipeline in this process, and what it answered
    record_command(task, command, questions) `lmcourse chat …` or `lmcourse serve api_client …`, typed to by us
    watch(task, talker)                      what a web page hands on to this pipeline or client is noted on its way

What is in force is asked of the engine, never taken from what somebody typed: the format of the weights in memory, the
blocks that were really made, bytes measured beside bytes predicted.

Contract: torch is imported only once there is a pipeline to look at.

Lesson: 9 (homework)
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from lmcourse.errors import ConfigError, LmcourseError, MachineError
from lmcourse.homework.evidence import Evidence, add_evidence, turn
from lmcourse.homework.tasks import find_task

if TYPE_CHECKING:
    from lmcourse.config import Response
    from lmcourse.pipeline import Pipeline

__all__ = ["VARIABLE", "Watched", "configuration_of", "memory_of", "record", "record_command", "watch"]

VARIABLE = "LMCOURSE_EVIDENCE"
_COMMANDS = {("chat",): "terminal", ("serve", "api_client"): "api_client"}
_SECONDS = 600


def record(
    task: str, pipe: Pipeline, responses: Response | Sequence[Response] = (), *, questions: str | Sequence[str] = ()
) -> Evidence:
    """Evidence from a running Pipeline. `questions` are the prompts of the responses, in order."""
    if getattr(pipe, "engine", None) is None:
        raise ConfigError(
            "there is no engine in this process whose configuration could be recorded",
            expected="a pipeline of one's own",
            got=type(pipe).__name__,
            next_step="pass a Pipeline; with the class's server (LMCOURSE_SERVER) use record_command or watch",
        )
    given = list(responses) if isinstance(responses, Sequence) else [responses]
    asked = [questions] if isinstance(questions, str) else list(questions)
    asked += ["(not handed over)"] * (len(given) - len(asked))
    turns = [
        turn(question, each.text, each.generate_token_len, finish_reason=each.finish_reason)
        for question, each in zip(asked, given, strict=False)
    ]
    talk = ("python", turns) if turns else None
    return add_evidence(task, configuration=configuration_of(pipe), memory=memory_of(pipe), talk=talk)


def configuration_of(pipe: Pipeline) -> dict[str, Any]:
    """What is in force, as the engine says."""
    engine, stats = pipe.engine, pipe.stats()
    names = ("cache_max_entry_count", "quant_policy", "max_batch_size", "model_format", "enable_prefix_caching", "tp")
    return {
        "model": pipe.name,
        "family": engine.spec.family,
        "template": pipe.template.name,
        "weight_format": engine.weight_format,
        "session_len": stats.session_len,
        **{name: getattr(engine.config, name) for name in names},
    }


def memory_of(pipe: Pipeline) -> dict[str, Any]:
    """Bytes of weights and KV cache: predicted from the model's shape, and counted in memory."""
    from lmcourse.accounting import Storage, count_weight_bytes
    from lmcourse.engine.kv_cache import choose_form, count_block_bytes
    from lmcourse.engine.settings import choose_device, choose_dtype

    engine, stats = pipe.engine, pipe.stats()
    device = choose_device()
    dtype = choose_dtype(engine.config, engine.spec.dtype, device)
    element = dtype.itemsize
    body = 0.5 + 4 / 128 if engine.weight_format == "awq" else element  # 4 bits, and a word for each group of 128
    storage = Storage(body_bytes=body, head_bytes=element, vector_bytes=element, embedding_bytes=element)
    form = choose_form(engine.config.quant_policy, engine.spec)
    block_bytes = count_block_bytes(engine.spec, stats.tokens_per_block, dtype, form)
    weights = round(count_weight_bytes(engine.spec, storage))
    return {
        "weights": {"predicted": weights, "measured": stats.weight_bytes},
        "kv_cache": {"predicted": stats.num_blocks * block_bytes, "measured": stats.kv_bytes},
        "num_blocks": stats.num_blocks,
        "tokens_per_block": stats.tokens_per_block,
        "device": device.type,
        "dtype": str(dtype).removeprefix("torch."),
    }


def record_command(
    task: str, command: str | Sequence[str], questions: Sequence[str], *, seconds: float = _SECONDS
) -> Evidence:
    """Run `lmcourse chat …` or `lmcourse serve api_client …`, type the questions, and keep what the process reports."""
    from lmcourse.homework.evidence import read_evidence

    find_task(task)
    words = shlex.split(command) if isinstance(command, str) else [str(word) for word in command]
    if words[:1] != ["lmcourse"] or not any(tuple(words[1 : 1 + len(known)]) == known for known in _COMMANDS):
        raise ConfigError(
            "this command has no conversation to record",
            expected="lmcourse chat … | lmcourse serve api_client URL …",
            got=shlex.join(words)[:200],
        )
    if not questions or any(not question.strip() for question in questions):
        raise ConfigError("there is nothing to type", expected="at least one question, none of them empty")
    typed = "".join(f"{question.strip()}\n\n" for question in questions) + "exit\n\n"
    try:
        done = subprocess.run(
            [sys.executable, "-m", "lmcourse", *words[1:]],
            input=typed, capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=seconds,
            env={**os.environ, VARIABLE: task, "PYTHONUTF8": "1"}, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise MachineError(
            "the command did not end", expected=f"within {seconds:g} s", where=shlex.join(words)
        ) from error
    if done.returncode:
        raise MachineError(
            "the command failed", got=done.stderr.strip()[-1500:], where=shlex.join(words),
            next_step="run it in a terminal until it works, then record it again",
        )  # fmt: skip
    return read_evidence(task)


class Watched:
    """A pipeline or client whose answers are noted as evidence; for everything else it is what it was."""

    def __init__(self, task: str, talker: Any, talk: str) -> None:
        self._task, self._talker, self._talk = find_task(task).id, talker, talk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._talker, name)

    @contextmanager
    def stream_infer(self, prompts: Any, gen_config: Any = None, **settings: Any) -> Iterator[Any]:
        """As the talker's own; what came is noted when the stream ends."""
        with self._talker.stream_infer(prompts, gen_config, **settings) as stream:
            try:
                yield stream
            finally:
                self._note(prompts, stream.responses)

    def __call__(self, prompts: Any, gen_config: Any = None, **settings: Any) -> Any:
        """As the talker's own."""
        answer = self._talker(prompts, gen_config, **settings)
        self._note(prompts, answer if isinstance(answer, list) else [answer])
        return answer

    def _note(self, prompts: Any, responses: Sequence[Any]) -> None:
        question, num_images = _last_question(prompts)
        turns = [
            turn(question, each.text, each.generate_token_len, finish_reason=each.finish_reason, num_images=num_images)
            for each in responses
            if hasattr(each, "generate_token_len")
        ]
        if turns:
            with suppress(LmcourseError):  # a full disk must not end a conversation
                add_evidence(self._task, talk=(self._talk, turns))


def watch(task: str, talker: Any, *, talk: str = "gradio") -> Watched:
    """The same pipeline or client, with its talk noted: chat_in_background(homework.watch(task, client))."""
    return Watched(task, talker, talk)


def _last_question(prompts: Any) -> tuple[str, int]:
    """The text that was asked last and how many pictures came with it; of messages, tuples or text."""
    if isinstance(prompts, Mapping):
        content = prompts.get("content", "")
        return _last_question(content)
    if isinstance(prompts, tuple):
        images = prompts[1] if len(prompts) > 1 and isinstance(prompts[1], list) else prompts[1:]
        return str(prompts[0]), len(images)
    if isinstance(prompts, list) and prompts:
        if all(isinstance(part, Mapping) and "type" in part for part in prompts):
            texts = [str(part["text"]) for part in prompts if part["type"] == "text"]
            return " ".join(texts), sum(part["type"] != "text" for part in prompts)
        return _last_question(prompts[-1])
    return str(prompts), 0
