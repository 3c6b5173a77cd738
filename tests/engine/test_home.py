"""Home: one process computes; what was forked from it, or pickled, is told so instead of hanging or filling memory."""

import copy
import os
import pickle

import pytest

from lmcourse.engine.home import Home
from lmcourse.errors import EngineClosedError


class _Holder:
    """An owner as the engine is: its home is its first attribute."""

    def __init__(self) -> None:
        self.home = Home()
        self.large = _Untouchable()


class _Untouchable:
    def __reduce__(self):
        raise AssertionError("weights were about to be copied")


def test_home_is_the_process_that_made_it():
    home = Home()
    home.require()
    assert home.is_here


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_home_refuses_in_a_forked_process():
    home = Home()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            home.require()
            os.write(writer, b"nothing was said")
        except EngineClosedError as error:
            os.write(writer, f"{home.is_here} {error.next_step}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said:
        text = said.read()
    os.waitpid(child, 0)
    assert text.startswith("False ")
    assert "threads" in text
    assert home.is_here


@pytest.mark.parametrize("copies", [pickle.dumps, copy.deepcopy])
def test_home_keeps_its_holder_from_being_copied(copies):
    with pytest.raises(EngineClosedError, match="cannot be copied"):
        copies(_Holder())
