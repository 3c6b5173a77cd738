"""Register: whose key is whose. Students have accounts; other keys, the instructor's among them, have none.

The idea: what a key opens follows from whom it stands for. A student's key opens what a student needs, not how others
fare: the server's metrics and, unless the roster says otherwise, the class view are the instructor's.

Lesson: 5 (serving a class)
"""

from __future__ import annotations

import hmac

from lmcourse.serve.class_quotas import Account, NoAccount
from lmcourse.serve.settings import ServerSettings

__all__ = ["Register"]


class Register:
    """Every key of a server, and the accounts of its class."""

    def __init__(self, settings: ServerSettings) -> None:
        own = [*settings.api_keys, *([] if settings.instructor_key is None else [settings.instructor_key])]
        self.students = tuple(Account(student) for student in settings.students)
        self._by_key: list[tuple[bytes, Account | NoAccount]] = [(key.encode(), NoAccount()) for key in own]
        self._by_key += [(account.student.key.encode(), account) for account in self.students]
        self._closed = {"/metrics"} if settings.students_see_class else {"/metrics", "/class"}

    @property
    def wants_key(self) -> bool:
        """Whether nobody comes in without one."""
        return bool(self._by_key)

    def find(self, key: bytes) -> Account | NoAccount | None:
        """Whose key it is; all are compared, each in constant time."""
        matches = [account for known, account in self._by_key if hmac.compare_digest(key, known)]
        return matches[0] if matches else None

    def may_open(self, visitor: Account | NoAccount, path: str) -> bool:
        """Whether what is at the path is for this visitor."""
        return isinstance(visitor, NoAccount) or path not in self._closed
