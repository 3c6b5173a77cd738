from __future__ import annotations

from pathlib import Path

import pytest

from lmcourse.authoring import Lesson, Project, read_lesson

HEADER = """\
# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

"""

LESSON = '''\
# %% [markdown] lang="en"
# # 1 · Small
#
# Prose with a [picture](../images/architecture.svg).

# %% [markdown] lang="zh"
# # 1 · 小
#
# 文字与[图](../images/architecture.svg)。

# %%
from lmcourse import homework

print("one")

# %% [markdown]
# The same in every language.

# %% tags=["measured"]
import time

started = time.perf_counter()

# %% tags=["check"]
assert time.perf_counter() > started

# %% [markdown] lang="en" exercise="2.2"
# ## Exercise 2.2 · Wrap a conversation
#
# Write `render(messages)`.

# %% [markdown] lang="zh" exercise="2.2"
# ## 练习 2.2 · 写出提示词
#
# 写 `render(messages)`。

# %% exercise="2.2"
def render(messages):
    """The prompt of a conversation."""
    # BEGIN SOLUTION
    turns = [f"<|im_start|>{m['role']}\\n{m['content']}<|im_end|>\\n" for m in messages]
    return "".join(turns) + "<|im_start|>assistant\\n"
    # END SOLUTION

# %% check="2.2"
homework.check("2.2", render)
'''


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "notebooks" / "source").mkdir(parents=True)
    return Project(tmp_path)


@pytest.fixture
def write(project: Project):  # type: ignore[no-untyped-def]
    """write(text, name) → Lesson of a source file with the jupytext header and that text."""

    def _write(text: str = LESSON, name: str = "02_small") -> Lesson:
        path = project.root / "notebooks" / "source" / f"{name}.py"
        path.write_text(HEADER + text, encoding="utf-8")
        return read_lesson(path)

    return _write
