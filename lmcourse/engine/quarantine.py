"""Quarantine: which request breaks the step? Halving, when an error does not say. No torch.

After an error every request waits again and nothing is computed. Then the suspects are let in by halves, alone:

    1 2 3 4 5 6 7 8   fails
    1 2 3 4           all get a token: innocent
            5 6 7 8   fails
            5 6       all get a token
                7 8   fails
                7     fails alone: it is the one, and ends with the error
                  8   gets a token

So the others lose some time, and no token. Whoever comes meanwhile waits. If all are innocent (it was their number, or
an accident) the work goes on, and each has got a token nearer to its end.

Lesson: 5 (an error in one request)
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

__all__ = ["Quarantine"]


class Quarantine:
    """`window` is the first and the last request id that may be computed; None: all may."""

    def __init__(self) -> None:
        self.window: tuple[int, int] | None = None
        self._next: list[Sequence[int]] = []  # groups to let in afterwards, the last one first
        self._waiting_for: set[int] = set()  # those let in that got no token yet

    def failed(self, unfinished: Sequence[int]) -> int | None:
        """The step failed while these requests were unfinished (ascending): the one to blame, if that is certain."""
        group = [i for i in unfinished if self.window is None or self.window[0] <= i <= self.window[1]]
        if len(group) < 2:
            self._let_in_next(unfinished)
            return group[0] if group else None
        half = len(group) // 2
        self._next += [group[half:], group[:half]]
        self._let_in_next(unfinished)
        return None

    def passed(self, served: Collection[int], unfinished: Sequence[int]) -> None:
        """The step went well: these requests got something, those are left."""
        self._waiting_for -= set(served)
        self._waiting_for &= set(unfinished)
        if not self._waiting_for:
            self._let_in_next(unfinished)

    def _let_in_next(self, unfinished: Sequence[int]) -> None:
        left = set(unfinished)
        self.window = None
        while self._next and self.window is None:
            group = [i for i in self._next.pop() if i in left]
            if group:
                self.window, self._waiting_for = (group[0], group[-1]), set(group)
