"""A keyboard that types by itself."""

import pytest


@pytest.fixture
def type_in(monkeypatch):
    """Have input() give these lines; an exception in place of a line is raised; then the input ends."""

    def install(*lines):
        waiting = iter(lines)
        prompts = []

        def fake_input(prompt=""):
            if prompt:
                prompts.append(prompt)
            line = next(waiting, EOFError())
            if isinstance(line, BaseException):
                raise line
            return line

        monkeypatch.setattr("builtins.input", fake_input)
        return prompts

    return install
