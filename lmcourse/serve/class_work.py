"""Work and Tally: what one student's use is made of: answers in the making, and tokens by the second.

    Tally    │5 0 0 7 ┃9 9 8 ...│      a count for each of the last sixty seconds, the oldest overwritten

Work holds no text: what somebody asks and is told is between them and the model.

Lesson: 5 (serving a class)
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["HISTORY_SECONDS", "Tally", "Work"]

HISTORY_SECONDS = 60


@dataclass(eq=False)
class Work:
    """One answer from the asking to its end."""

    asked_at: float  # in seconds of the account's clock
    num_tokens: int = 0  # written so far


class Tally:
    """Tokens by the second, for the last minute. Times may not go back."""

    def __init__(self) -> None:
        self.total = 0
        self._counts = [0] * (HISTORY_SECONDS + 1)  # and the present second, which is not over
        self._second = 0  # the present one, as far as is known

    def add(self, now: float, num_tokens: int) -> None:
        """So many more at this moment."""
        self._advance(int(now))
        self._counts[self._second % len(self._counts)] += num_tokens
        self.total += num_tokens

    def last_minute(self, now: float) -> list[int]:
        """Counts of the sixty seconds that are over, the oldest first."""
        self._advance(int(now))
        present = self._second % len(self._counts)
        return [*self._counts[present + 1 :], *self._counts[:present]]

    def _advance(self, second: int) -> None:
        """The seconds that have passed since held nothing."""
        for passed in range(max(self._second, second - len(self._counts)) + 1, second + 1):
            self._counts[passed % len(self._counts)] = 0
        self._second = max(self._second, second)
