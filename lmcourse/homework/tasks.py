"""The tasks of the lesson's homework, basic and advanced, each as what its evidence must show.

    chat             set up, and chat in the terminal
    w4a16-chat       4-bit weights and cache ratio 0.4 on the command line
    w4a16-server     the API server with both, reached by both clients: terminal and web page
    w4a16-pipeline   the same from Python
    llava-gradio     a vision model behind a web page

A requirement looks at plain data that anyone may have edited; whatever breaks while it looks is not met.

Contract: evidence is for people to read and for students to see what is missing. It is worth no points.

Lesson: 9 (homework)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lmcourse.errors import ConfigError

__all__ = ["TASKS", "Requirement", "Task", "count_met", "find_task"]

_CACHE_RATIO = 0.4
_SHORTEST_ANSWER = 1
Evidence = Mapping[str, Any]


@dataclass(frozen=True)
class Requirement:
    """`shows` is what must be so; `advice` what to do if it is not."""

    shows: str
    advice: str
    test: Callable[[Evidence], bool]

    def met(self, evidence: Any) -> bool:
        """False, too, for what is no evidence at all."""
        try:
            return bool(self.test(evidence))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError):
            return False


@dataclass(frozen=True)
class Task:
    """`level` is the lesson's own: basic or advanced."""

    id: str
    level: str
    title: str
    requirements: tuple[Requirement, ...]


def count_met(task: Task, evidence: Any) -> tuple[int, int]:
    """Requirements met, of how many."""
    return sum(requirement.met(evidence) for requirement in task.requirements), len(task.requirements)


def find_task(task_id: str) -> Task:
    """The task of that id; ConfigError lists the known ones."""
    for task in TASKS:
        if task.id == task_id:
            return task
    known = ", ".join(task.id for task in TASKS)
    raise ConfigError(f"there is no task {task_id!r}", expected=known, got=repr(task_id))


def _answered(talk: str) -> Requirement:
    places = {
        "terminal": "talk with `lmcourse chat`",
        "api_client": "talk with `lmcourse serve api_client URL`",
        "gradio": "talk on the page of `lmcourse serve gradio URL`",
        "python": "hand the responses over: homework.record(task, pipe, responses)",
    }

    def test(evidence: Evidence) -> bool:
        turns = evidence["talks"][talk]
        return any(turn["question"].strip() and turn["num_tokens"] >= _SHORTEST_ANSWER for turn in turns)

    return Requirement(f"the model answered ({talk.replace('_', ' ')})", places[talk], test)


def _configured(name: str, value: Any, shows: str, advice: str) -> Requirement:
    def test(evidence: Evidence) -> bool:
        found = evidence["configuration"][name]
        if isinstance(value, float):
            return abs(float(found) - value) < 1e-6
        return bool(found == value)

    return Requirement(shows, advice, test)


def _as_predicted(evidence: Evidence) -> bool:
    parts = evidence["memory"]
    return all(abs(parts[name]["measured"] / parts[name]["predicted"] - 1) < 0.05 for name in ("weights", "kv_cache"))


def _has_versions(evidence: Evidence) -> bool:
    return all(evidence["versions"][name] for name in ("python", "torch", "lmcourse"))


def _saw_an_image(evidence: Evidence) -> bool:
    return any(turn["num_images"] > 0 for turn in evidence["talks"]["gradio"])


_VERSIONS = Requirement("versions of this machine", "record the task with the course's own tools", _has_versions)
_MEMORY = Requirement(
    "memory within 5 % of what arithmetic predicts", "let no other program use the device meanwhile", _as_predicted
)
_FOUR_BIT = _configured(
    "weight_format", "awq", "4-bit weights (W4A16)", "load the folder of `lmcourse lite auto_awq`, --model-format awq"
)
_RATIO = _configured(
    "cache_max_entry_count", _CACHE_RATIO, "cache ratio 0.4", "--cache-max-entry-count 0.4, or the config's keyword"
)
_LESSONS_OWN = (_FOUR_BIT, _RATIO, _MEMORY, _VERSIONS)

TASKS: tuple[Task, ...] = (
    Task("chat", "basic", "Set up and chat", (_answered("terminal"), _MEMORY, _VERSIONS)),
    Task(
        "w4a16-chat",
        "advanced",
        "W4A16 with cache ratio 0.4 on the command line",
        (_answered("terminal"), *_LESSONS_OWN),
    ),
    Task(
        "w4a16-server",
        "advanced",
        "The API server with W4A16 and 0.4, reached by both clients",
        (_answered("api_client"), _answered("gradio"), *_LESSONS_OWN),
    ),
    Task(
        "w4a16-pipeline",
        "advanced",
        "Python integration with W4A16 and 0.4",
        (_answered("python"), *_LESSONS_OWN),
    ),
    Task(
        "llava-gradio",
        "advanced",
        "LLaVA through gradio",
        (
            _answered("gradio"),
            Requirement("it was shown a picture", "put a picture beside the question", _saw_an_image),
            _VERSIONS,
        ),
    ),
)
