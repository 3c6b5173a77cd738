"""The exception tree is what its drawing says, and messages carry their parts."""

from __future__ import annotations

import lmcourse.errors as errors
from lmcourse.errors import ConfigError, LmcourseError


def test_every_error_is_drawn_and_exported() -> None:
    classes = {
        name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, LmcourseError)
    }
    assert classes == set(errors.__all__)
    assert all(name in (errors.__doc__ or "") for name in classes)


def test_message_lists_the_parts_that_were_given() -> None:
    error = ConfigError("a thing is wrong", expected=[1, 2], got=3, next_step="use 1")
    assert str(error) == "a thing is wrong\n  expected: [1, 2]\n  got: 3\n  next step: use 1"
    assert (error.what, error.where) == ("a thing is wrong", None)
    assert isinstance(error, ValueError)
