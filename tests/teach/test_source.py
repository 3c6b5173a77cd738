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
    assert [stage.split()[1].rstrip(":") for stage in stages] == ["which", "load", "compute", "store"]


def test_listing_is_markdown_in_a_notebook_and_text_elsewhere() -> None:
    which, load, *_ = kernel_stages(KERNEL)
    both = which + load
    assert repr(both) == f"{which}\n{load}"
    assert both._repr_markdown_() == f"```python\n{which}\n{load}\n```"


def test_kernel_stages_of_a_function_without_any() -> None:
    with pytest.raises(ConfigError, match="no commented stages"):
        kernel_stages(textwrap.indent)
