"""A class of students and one engine: who waits how long, and how many it is enough for.

    student    think ── ask ──── wait ────│── read the answer as it comes ──│── think ── ask …
                        |────── TTFT ─────|─────── tokens/s ────────────────|

A student asks again only when the answer is there: a closed loop, that cannot pile up more than one question a head.
Thinking takes an exponential time of the given mean; prompts and answers are of lengths drawn evenly from half of their
mean to one and a half of it. `together` has everybody ask at once as the class begins, `spread` some time in the first
mean of a thought.
`flood` is one more, who thinks not at all and keeps so many questions open; results are those of the others.

Contract: the same seed gives the same class, whatever the machine. Questions asked before the end are answered to
their end; all of them count.

Lesson: 5 (how many students)
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from lmcourse.bench.capacity_machine import Machine, MachineUse
from lmcourse.bench.latency import percentile
from lmcourse.errors import ConfigError

__all__ = [
    "ClassLoad",
    "ClassResult",
    "Goal",
    "Visit",
    "draw_question",
    "draw_start",
    "draw_thought",
    "find_most_students",
    "run_class",
    "student_draws",
]


@dataclass(frozen=True)
class ClassLoad:
    """Who asks what, and how often."""

    students: int
    think: float = 30.0  # seconds, mean
    prompt: int = 300  # tokens, mean
    answer: int = 200  # tokens, mean
    seconds: float = 300.0  # in which questions are asked
    start: str = "together"  # or spread
    seed: int = 0
    flood: int = 0  # questions that one more keeps open all the time

    def __post_init__(self) -> None:
        whole = {"students": self.students, "prompt": self.prompt, "answer": self.answer}
        for name, value in whole.items():
            if value < 1:
                raise ConfigError(f"{name} is out of range", expected="1 or more", got=value, where=name)
        if self.flood < 0:
            raise ConfigError("flood is out of range", expected="0 or more", got=self.flood, where="flood")
        if not 0 <= self.think < float("inf"):
            raise ConfigError("think is out of range", expected="0 seconds or more", got=self.think, where="think")
        if not 0 < self.seconds < float("inf"):
            raise ConfigError("a class takes time", expected="above 0 seconds", got=self.seconds, where="seconds")
        if self.start not in ("together", "spread"):
            raise ConfigError("no such start", expected="together | spread", got=self.start, where="start")

    @property
    def longest(self) -> int:
        """Tokens of the longest question with its answer."""
        return (3 * self.prompt) // 2 + (3 * self.answer) // 2

    def account(self, student: int) -> str:
        """Whose question it is."""
        return f"student {student}" if student < self.students else "flood"


@dataclass(frozen=True)
class Visit:
    """One question: when it was asked, when its first and its last token came, in seconds; tokens of both."""

    student: int
    asked_at: float
    first_at: float
    ended_at: float
    prompt: int
    answer: int

    @property
    def ttft(self) -> float:
        return self.first_at - self.asked_at

    @property
    def rate(self) -> float | None:
        """Tokens per second while the answer came; None for an answer that came in one piece."""
        seconds = self.ended_at - self.first_at
        return (self.answer - 1) / seconds if seconds > 0 else None


@dataclass(frozen=True)
class Goal:
    """A service that is good enough: `ttft` seconds at the 95th percentile, `rate` tokens/s at the 5th."""

    ttft: float = 1.0
    rate: float = 15.0

    def __post_init__(self) -> None:
        for name, value in (("ttft", self.ttft), ("rate", self.rate)):
            if not 0 < value < float("inf"):
                raise ConfigError(f"the goal's {name} is out of range", expected="above 0", got=value, where=name)

    def kept_by(self, result: ClassResult) -> bool:
        return result.ttft(95) <= self.ttft and result.rate(5) >= self.rate


@dataclass(frozen=True)
class ClassResult:
    """All questions of a class, and what the machine did. Means are over the time until the last answer's end."""

    load: ClassLoad
    visits: tuple[Visit, ...]
    use: MachineUse
    flooded: tuple[Visit, ...] = ()  # of the one who floods

    @classmethod
    def of(cls, load: ClassLoad, visits: Iterable[Visit], use: MachineUse) -> ClassResult:
        """From the visits of everybody, the one who floods among them."""
        ours: list[Visit] = []
        theirs: list[Visit] = []
        for visit in visits:
            (ours if visit.student < load.students else theirs).append(visit)
        return cls(load, tuple(ours), use, tuple(theirs))

    @property
    def span(self) -> float:
        """Seconds until the last answer's end."""
        return max(visit.ended_at for visit in (*self.visits, *self.flooded))

    @property
    def questions_per_second(self) -> float:
        return len(self.visits) / self.span

    @property
    def tokens_per_second(self) -> float:
        """Of all answers together."""
        return sum(visit.answer for visit in self.visits) / self.span

    @property
    def mean_response(self) -> float:
        """Seconds from a question to its answer's end."""
        return sum(visit.ended_at - visit.asked_at for visit in self.visits) / len(self.visits)

    @property
    def mean_waiting(self) -> float:
        """Students who wait or read, on average: by Little's law questions per second times response."""
        return sum(visit.ended_at - visit.asked_at for visit in self.visits) / self.span

    @property
    def busy(self) -> float:
        """Share of the time in which the machine computes."""
        return self.use.busy_seconds / self.span

    @property
    def outside(self) -> float:
        """Share of the steps that lie beyond what was measured."""
        return self.use.num_outside / max(1, self.use.num_steps)

    def ttft(self, share: float) -> float:
        """Seconds; `share` percent of the questions waited no longer."""
        return percentile([visit.ttft for visit in self.visits], share)

    def rate(self, share: float) -> float:
        """Tokens per second while answering; `share` percent of the answers came no faster."""
        rates = [rate for visit in self.visits if (rate := visit.rate) is not None]
        return percentile(rates, share) if rates else float("inf")

    def first_questions(self) -> list[Visit]:
        """Of each student the first."""
        found: dict[int, Visit] = {}
        for visit in sorted(self.visits, key=lambda visit: visit.asked_at):
            found.setdefault(visit.student, visit)
        return list(found.values())

    def to_json(self) -> dict[str, Any]:
        names = ("questions_per_second", "tokens_per_second", "mean_response", "mean_waiting", "busy", "outside")
        first = [visit.ttft for visit in self.first_questions()]
        return {
            **asdict(self.load),
            "questions": len(self.visits),
            "flooded_tokens_per_second": _rounded(sum(visit.answer for visit in self.flooded) / self.span),
            **{name: _rounded(getattr(self, name)) for name in names},
            "ttft_seconds": {f"p{share}": _rounded(self.ttft(share)) for share in (50, 95, 99)},
            "ttft_of_first_questions": {f"p{share}": _rounded(percentile(first, share)) for share in (50, 95, 100)},
            "tokens_per_second_each": {f"p{share}": _rounded(self.rate(share)) for share in (5, 50)},
            **self.use._asdict(),
        }


def run_class(load: ClassLoad, machine: Machine) -> ClassResult:
    """Until every question asked within the class is answered."""
    draws = student_draws(load)
    asking = [(draw_start(load, student, draw), student) for student, draw in enumerate(draws)]
    heapq.heapify(asking)
    open_visits: dict[int, tuple[int, float, int, int]] = {}
    first_at: dict[int, float] = {}
    visits = []
    while asking or machine.has_work:
        while asking and asking[0][0] <= machine.now:
            moment, student = heapq.heappop(asking)
            prompt, answer = draw_question(load, draws[student])
            open_visits[machine.ask(prompt, answer, load.account(student))] = (student, moment, prompt, answer)
        if not machine.has_work:
            machine.wait_until(asking[0][0])
            continue
        for request_id, is_last in machine.advance():
            now = machine.now
            first_at.setdefault(request_id, now)
            if is_last:
                student, moment, prompt, answer = open_visits.pop(request_id)
                visits.append(Visit(student, moment, first_at.pop(request_id), now, prompt, answer))
                again = now + draw_thought(load, student, draws[student])
                if again < load.seconds:
                    heapq.heappush(asking, (again, student))
    return ClassResult.of(load, visits, machine.use())


def find_most_students(run: Callable[[int], ClassResult], goal: Goal, *, guess: int = 1, most: int = 65_536) -> int:
    """The largest class that keeps the goal, to 3 %; 0 if not even one student does, `most` if all do."""
    low, high, probe = 0, most + 1, min(max(1, guess), most)
    while low < probe < high:  # from the guess to an edge
        if goal.kept_by(run(probe)):
            low, probe = probe, min(probe + probe // 4 + 1, most)
        else:
            high, probe = probe, probe * 4 // 5
    while high - low > max(1, low // 32):
        middle = (low + high) // 2
        low, high = (middle, high) if goal.kept_by(run(middle)) else (low, middle)
    return low


def student_draws(load: ClassLoad) -> list[random.Random]:
    """Each student's own chance, so that nobody's questions depend on who else is there; then those of the flood."""
    return [random.Random(f"{load.seed} {student}") for student in range(load.students + load.flood)]


def draw_start(load: ClassLoad, student: int, draw: random.Random) -> float:
    """When the first question is asked, which is within the class."""
    if load.start == "together" or student >= load.students:
        return 0.0
    return draw.random() * min(load.think, load.seconds)


def draw_thought(load: ClassLoad, student: int, draw: random.Random) -> float:
    """Seconds until the next question."""
    return draw.expovariate(1 / load.think) if load.think and student < load.students else 0.0


def draw_question(load: ClassLoad, draw: random.Random) -> tuple[int, int]:
    """Tokens of the prompt and of the answer."""
    prompt, answer = (draw.randint(mean - mean // 2, mean + mean // 2) for mean in (load.prompt, load.answer))
    return prompt, answer


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
