"""When a request ends: stop ids, stop strings, lengths. No torch.

The idea of a stop string in a stream: text that could still be the beginning of a stop string is held back until the
next tokens decide. What went out is never taken back, and no part of a stop string ever goes out.

    stop string "END"     tokens  "The E"  "N"   "glish"  " EN"  "D now"
                          out     "The "   ""    "English" " "   (stop; "END now" is cut)
                          held    "E"      "EN"  ""        "EN"

Lesson: 2 (passing generation parameters)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["StopRule", "StopStrings"]


@dataclass(frozen=True)
class StopRule:
    """What ends one request. Nothing but a length does so before min_new_tokens."""

    stop_ids: frozenset[int] = frozenset()
    stop_strings: tuple[str, ...] = ()
    max_new_tokens: int = 512  # capped so that prompt and answer fit the session
    min_new_tokens: int = 0


class StopStrings:
    """Cuts a stream of text before the first stop string to be completed (of two at once: before the longer)."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = tuple(words)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Text that may go out now, and whether a stop string was reached; after that, push nothing more."""
        pending = self._held + text
        hits = [(start + len(word), start) for word in self._words if (start := pending.find(word)) >= 0]
        if hits:
            self._held = ""
            return pending[: min(hits)[1]], True
        held = max((_count_overlap(pending, word) for word in self._words), default=0)
        self._held = pending[len(pending) - held :]
        return pending[: len(pending) - held], False

    def flush(self) -> str:
        """The text still held back, once it is certain that nothing follows."""
        held, self._held = self._held, ""
        return held


def _count_overlap(text: str, word: str) -> int:
    """Length of the longest proper beginning of `word` that `text` ends with."""
    longest = min(len(text), len(word) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(word[:size])), 0)
