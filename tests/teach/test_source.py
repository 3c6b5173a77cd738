"""A kernel's stages are its own lines, in order, and nothing is lost between them."""

from __future__ import annotations

import importlib
import inspect
import textwrap

import pytest

from lmcourse.errors import ConfigError
from lmcourse.teach import kernel_stages

KERNEL = importlib.import_module("lmcourse.kernels.decode_attention")._decode_kernel


def test_kernel_stages_are_its_own_source() -> None:
    stages = kernel_stages(KERNEL)
    source = inspect.getsource(getattr(KERNEL, "fn", KERNEL))
    body = textwrap.dedent(source[source.index("    # which tile am I") :])
    assert "\n".join(stages) == body.rstrip()
    assert stages[0].startswith("# which tile am I")
    assert stages[-1].startswith("# store")


def test_listing_is_markdown_in_a_notebook_and_text_elsewhere() -> None:
    which, *_, store = kernel_stages(KERNEL)
    both = which + store
    assert repr(both) == f"{which}\n{store}"
    assert both._repr_markdown_() == f"```python\n{which}\n{store}\n```"


def test_kernel_stages_of_a_function_without_any() -> None:
    with pytest.raises(ConfigError, match="no commented stages"):
        kernel_stages(textwrap.indent)
