"""The same class on paper: four numbers from the table, and Little's law.

    p    ms of a prompt                a    tokens of an answer            Z    seconds of thought
    s(B) ms of a step of B answers     every step also carries B / a prompts, since each answer began with one

    e(B) = s(B) + p · B / a            a step in a room where B are answered
    R    = p + a · e(B)                from the question to the answer's end
    B    = N · R / (Z + R)             Little: of N students so many are being answered
    N    = B · (Z + R) / R             … and the other way round: so many students keep B places busy
    all at once: the last waits for N prompts, or, with M places for less than N, for M prompts and until N - M answers
    have made room, one in a · e(M) / M

B is found by trying; on paper two rounds do. What paper leaves out is chance: who comes when, and lengths that differ.

Lesson: 5 (how many students)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lmcourse.bench.capacity import ClassLoad, Goal
from lmcourse.bench.capacity_steps import StepTable

__all__ = ["Estimate", "count_places", "estimate", "estimate_most_students", "explain", "explain_full"]


@dataclass(frozen=True)
class Estimate:
    """What arithmetic says of a class; times in seconds."""

    answering: float  # students, on average; more than there are places: the others queue
    step: float  # with its share of prompts
    prompt: float
    response: float
    tokens_per_second: float
    together: float  # until the last first token when everybody asks at once

    @property
    def rate(self) -> float:
        """Tokens per second of one answer."""
        return 1 / self.step

    def to_json(self) -> dict[str, Any]:
        values = {**vars(self), "rate": self.rate}
        return {name: float(f"{value:.4g}") for name, value in values.items()}


def count_places(table: StepTable, load: ClassLoad) -> int:
    """Answers at the same time: as many as may run, and as the KV cache holds with their questions."""
    return max(1, min(table.max_running, table.kv_tokens // (load.prompt + load.answer)))


def estimate(table: StepTable, load: ClassLoad) -> Estimate:
    """The B at which both sides agree, by halving the interval."""
    places = count_places(table, load)
    low, high = 0.0, float(load.students)
    for _ in range(60):
        middle = (low + high) / 2
        response = _response(table, load, middle, places)
        wanted = load.students * response / (load.think + response)
        low, high = (middle, high) if wanted > middle else (low, middle)
    answering = (low + high) / 2
    return Estimate(
        answering=answering,
        step=_step(table, load, min(_company(load, answering), places)),
        prompt=_prompt(table, load),
        response=_response(table, load, answering, places),
        tokens_per_second=load.students * load.answer / (load.think + _response(table, load, answering, places)),
        together=_together(table, load, places),
    )


def estimate_most_students(table: StepTable, load: ClassLoad, goal: Goal) -> int:
    """Students who keep as many places busy as there are, or as still get the goal's tokens per second."""
    answering = count_places(table, load)
    while answering > 1 and 1 / _step(table, load, answering) < goal.rate:
        answering -= 1
    response = _prompt(table, load) + load.answer * _step(table, load, answering)
    return int(answering * (load.think + response) / response)


def explain(table: StepTable, load: ClassLoad) -> str:
    """The arithmetic with its numbers, to be done again by hand."""
    found, places = estimate(table, load), count_places(table, load)
    seen = min(_company(load, found.answering), places)
    prompt, step = 1000 * found.prompt, 1000 * found.step
    share = f"{prompt:.2f} · {seen:.1f} / {load.answer}"
    return "\n".join([
        f"{load.students:,} on paper",
        f"  a prompt p = {prompt:.2f} ms; a step of {seen:.1f} answers s = {step - prompt * seen / load.answer:.2f} ms",
        f"  with its share of prompts e = s + {share} = {step:.2f} ms",
        f"  an answer R = p + {load.answer} e = {found.response:.2f} s",
        f"  answered at once B = {load.students:,} · R / ({load.think:g} s + R) = {found.answering:.1f}",
    ])  # fmt: skip


def explain_full(table: StepTable, load: ClassLoad) -> str:
    """What a question costs a machine all of whose places are busy."""
    places, tokens = count_places(table, load), load.prompt + load.answer
    step = _step(table, load, places)
    cost = load.answer * step / places
    return "\n".join([
        "a full machine on paper",
        f"  the KV cache holds {table.kv_tokens:,} / {tokens} = {table.kv_tokens // tokens:,} questions with their "
        f"answers; {places} run",
        f"  e({places}) = {1000 * step:.2f} ms, so a question costs {load.answer} e / {places} = {1000 * cost:.2f} ms: "
        f"{1 / cost:,.0f} a second",
    ])  # fmt: skip


def _company(load: ClassLoad, answering: float) -> float:
    """Who asks finds the others being answered, and makes one more."""
    return 1 + answering * (load.students - 1) / load.students


def _prompt(table: StepTable, load: ClassLoad) -> float:
    return table.prompt_ms([(0, load.prompt)]) / 1000


def _step(table: StepTable, load: ClassLoad, answering: float) -> float:
    context = load.prompt + load.answer / 2
    own = table.decode_ms(answering, context) / 1000
    return own + _prompt(table, load) * answering / load.answer


def _together(table: StepTable, load: ClassLoad, places: int) -> float:
    queued = max(0, load.students - places)
    return (load.students - queued) * _prompt(table, load) + queued * load.answer * _step(table, load, places) / places


def _response(table: StepTable, load: ClassLoad, answering: float, places: int) -> float:
    """With more than there are places everybody waits so much longer in the queue."""
    company = _company(load, answering)
    queued = max(1.0, company / places)
    return (_prompt(table, load) + load.answer * _step(table, load, min(company, places))) * queued
