"""Evidence of a task: what the package itself saw, in one file per task, grown by every process that takes part.

    {"task", "student", "collected_at", "versions": {…},
     "configuration": {"model", "weight_format", "cache_max_entry_count", …},
     "memory": {"weights": {"predicted", "measured"}, "kv_cache": {…}, "num_blocks", "tokens_per_block"},
     "talks": {"terminal" | "api_client" | "gradio" | "python": [{"question", "answer", "num_tokens", …}]}}

`LMCOURSE_EVIDENCE=TASK` before a command makes that command add what it sees: its configuration, and its talk.

Contract: a file is replaced in one step, under the student's lock; the newest 50 turns of each talk are kept.

Lesson: 9 (homework)
"""

from __future__ import annotations

import html
import os
import platform
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lmcourse.homework.student import homework_folder, locked, read_object, student_name, write_object
from lmcourse.homework.tasks import TASKS, Task, find_task

__all__ = ["Evidence", "TaskList", "add_evidence", "read_evidence", "tasks", "turn", "versions"]

_MOST_TURNS, _MOST_CHARACTERS = 50, 4000
_PACKAGES = ("lmcourse", "torch", "transformers", "triton", "numpy", "gradio", "fastapi")


class Evidence:
    """A task with what was seen of it; shows itself requirement by requirement."""

    def __init__(self, task: Task, data: Mapping[str, Any]) -> None:
        self.task, self.data = task, data

    @property
    def complete(self) -> bool:
        """Whether every requirement is met."""
        return all(met for _, met, _ in self.rows())

    def rows(self) -> list[tuple[str, bool, str]]:
        """What must be shown, whether it is, and what to do if not."""
        return [(need.shows, need.met(self.data), need.advice) for need in self.task.requirements]

    def __repr__(self) -> str:
        rows = [f"  {'✓' if met else '✗'} {shows}{'' if met else f': {advice}'}" for shows, met, advice in self.rows()]
        return "\n".join([self._headline(), *rows])

    def _headline(self) -> str:
        rows = self.rows()
        return f"{self.task.title} ({self.task.level}): {sum(met for _, met, _ in rows)} of {len(rows)} shown"

    def _repr_html_(self) -> str:
        items = "".join(
            f"<li>{'✓' if met else '✗'} {html.escape(shows)}{'' if met else f': {html.escape(advice)}'}</li>"
            for shows, met, advice in self.rows()
        )
        return f"<p><b>{html.escape(self._headline())}</b></p><ul style='list-style: none'>{items}</ul>"


class TaskList:
    """All tasks with their evidence so far."""

    def __init__(self, found: Sequence[Evidence]) -> None:
        self.found = tuple(found)

    def __repr__(self) -> str:
        return "\n".join(repr(evidence) for evidence in self.found)

    def _repr_html_(self) -> str:
        return "".join(evidence._repr_html_() for evidence in self.found)


def tasks(folder: Path | None = None) -> TaskList:
    """The tasks of lesson 9 and what is still missing of each."""
    return TaskList([read_evidence(task.id, folder) for task in TASKS])


def read_evidence(task_id: str, folder: Path | None = None) -> Evidence:
    """What was seen of a task so far."""
    return Evidence(find_task(task_id), read_object(_path(task_id, folder)))


def add_evidence(
    task_id: str,
    *,
    configuration: Mapping[str, Any] | None = None,
    memory: Mapping[str, Any] | None = None,
    talk: tuple[str, Sequence[Mapping[str, Any]]] | None = None,
    folder: Path | None = None,
) -> Evidence:
    """Put what was seen to the rest. `talk` is where it was had, and its turns."""
    task, place = find_task(task_id), folder or homework_folder()
    with locked(place):
        data = read_object(_path(task.id, place))
        talks = data.get("talks")
        talks = dict(talks) if isinstance(talks, dict) else {}
        if talk is not None:
            name, turns = talk
            before = talks.get(name)
            talks[name] = [*(before if isinstance(before, list) else []), *turns][-_MOST_TURNS:]
        seen = {"configuration": configuration, "memory": memory}
        data |= {name: dict(part) for name, part in seen.items() if part is not None}
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        data |= {
            "task": task.id,
            "student": student_name(),
            "collected_at": now,
            "versions": versions(),
            "talks": talks,
        }
        write_object(_path(task.id, place), data)
    return Evidence(task, data)


def _path(task_id: str, folder: Path | None) -> Path:
    return (folder or homework_folder()) / "evidence" / f"{task_id}.json"


def turn(
    question: str, answer: str, num_tokens: int, *, finish_reason: str | None = None, num_images: int = 0
) -> dict[str, Any]:
    """One question and its answer, as evidence keeps them."""
    return {
        "question": question[:_MOST_CHARACTERS],
        "answer": answer[:_MOST_CHARACTERS],
        "num_tokens": num_tokens,
        "finish_reason": finish_reason,
        "num_images": num_images,
    }


def versions() -> dict[str, Any]:
    """Of Python, the packages that matter, and the machine's kind; no name and no path."""
    found: dict[str, Any] = {"python": platform.python_version(), "system": platform.system(), "cpus": os.cpu_count()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found
