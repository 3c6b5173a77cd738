"""What the reader must be told once: which device a model went to, that no remote code runs.

Lesson: 2 (transformers)
"""

from __future__ import annotations

from functools import cache

__all__ = ["say", "say_once"]


def say(text: str) -> None:
    """Tell the reader, in a terminal or under a notebook cell."""
    print(f"[lmcourse] {text}", flush=True)  # noqa: T201 - these lines are for the person who runs the script


@cache
def say_once(text: str) -> None:
    """`say`, but each text only once in a process: a cached call does nothing."""
    say(text)
