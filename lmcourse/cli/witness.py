"""What a command adds to a student's evidence when LMCOURSE_EVIDENCE names a task; without it nothing is looked at.

Contract: an unknown task is a ConfigError before any model is loaded; afterwards nothing here disturbs the talk.

Lesson: 9 (homework)
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmcourse.config import Response
    from lmcourse.pipeline import Pipeline

__all__ = ["Note", "check_task", "note_engine", "note_turns", "watched"]

Note = Callable[[str, "Response"], None]
_VARIABLE = "LMCOURSE_EVIDENCE"


def check_task() -> str | None:
    """The task that this command is evidence of, if any."""
    if not (task := os.environ.get(_VARIABLE)):
        return None
    from lmcourse.homework.tasks import find_task

    return find_task(task).id


def note_engine(pipe: Pipeline) -> None:
    """Configuration in force and memory, if a task is named."""
    if (task := check_task()) is not None:
        from lmcourse.homework.collect import record

        record(task, pipe)


def note_turns(talk: str) -> Note | None:
    """What to call with each question and its Response; None if no task is named."""
    if (task := check_task()) is None:
        return None
    from lmcourse.homework.evidence import add_evidence, turn

    def note(question: str, response: Response) -> None:
        said = turn(question, response.text, response.generate_token_len, finish_reason=response.finish_reason)
        add_evidence(task, talk=(talk, [said]))

    return note


def watched(talker: Any) -> Any:
    """The talker of a web page, its answers noted if a task is named."""
    if (task := check_task()) is None:
        return talker
    from lmcourse.homework.collect import watch
    from lmcourse.pipeline import Pipeline

    if isinstance(talker, Pipeline):
        note_engine(talker)
    return watch(task, talker)
