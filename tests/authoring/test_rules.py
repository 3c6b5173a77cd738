from __future__ import annotations

import nbformat
import pytest

from lmcourse.authoring import find_faults, notebook_faults
from lmcourse.authoring.rules import count_words

INTRO = "# %% [markdown]\n# # Title\n\n"
PROSE = "# %% [markdown]\n# why\n\n"
ENGLISH = '# %% [markdown] lang="en"\n# A\n\n'
CHINESE = '# %% [markdown] lang="zh"\n# B\n\n'
EXERCISE = (
    '# %% [markdown] exercise="2.2"\n# ## 2.2 Wrap a conversation\n\n'
    '# %% exercise="2.2"\n# BEGIN SOLUTION\nx = 1\n# END SOLUTION\n\n'
    '# %% check="2.2"\nhomework.check("2.2", x)\n'
)


def test_a_good_lesson_has_no_faults(write) -> None:
    assert find_faults(write()) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# %%\n1\n", "does not begin with prose"),
        (INTRO + "# %%\n1\n\n# %%\n2\n", "two code cells in a row"),
        (INTRO + "# %%\n" + "x = 1\n" * 26, "26 lines"),
        (INTRO + "# %% [markdown]\n# " + "word " * 81 + "\n", "81 words"),
        (INTRO + PROSE * 3, "4 prose cells in a row"),
        (INTRO + "# %%\n1\n\n" + (PROSE + "# %%\n1\n\n") * 30, "62 cells"),
        (INTRO + '# %% tags=["measured"]\n1\n\n# %% tags=["check"]\n2\n', "1 of 2 code cells are measured"),
        (INTRO + '# %% tags=["measured"]\n1\n\n' + PROSE + "# %%\n2\n", "must be followed by a compared cell"),
        (INTRO + EXERCISE.replace("## 2.2", "## Something"), "a heading that names it"),
        (INTRO + EXERCISE.replace("Wrap a", "Begin a"), "homework calls the exercise 'Wrap a conversation'"),
        (INTRO + EXERCISE.replace('# %% check="2.2"', '# %% check="2.1"'), "not followed by its check"),
        (INTRO + EXERCISE.replace('check("2.2"', "print("), "does not call homework.check"),
        (INTRO + EXERCISE.replace("2.2", "1.1"), "belongs to lesson 1"),
        (INTRO + EXERCISE.replace("2.2", "9.9"), "no exercise '9.9'"),
        (ENGLISH + CHINESE + "# %%\n1\n\n" + ENGLISH, "missing in: zh"),
        (CHINESE + "# %%\n1\n\n" + ENGLISH, "missing in: en"),
    ],
)  # fmt: skip
def test_broken_rule_is_named_with_its_place(write, text: str, said: str) -> None:
    faults = find_faults(write(text))
    assert any(said in fault for fault in faults), faults
    assert all(fault.startswith("02_small.py:") for fault in faults)


def test_two_variants_in_a_row_make_two_groups(write) -> None:
    assert find_faults(write((ENGLISH + CHINESE) * 2)) == []


def test_statement_may_be_longer_than_other_prose(write) -> None:
    long = EXERCISE.replace("conversation\n", "conversation\n#\n# " + "word " * 120 + "\n")
    assert find_faults(write(INTRO + long)) == []


@pytest.mark.parametrize(
    ("prose", "words"),
    [
        ("One two, three-four: five's.", 4),
        ("推理引擎很快", 3),
        ("- one\n- two", 2),
        ("# Title here", 2),
        ("see [the map](../images/a/b/c.svg)", 3),
        ("| a | b |\n|---|---|\n| c | d |\n\nend", 1),
        ("before\n```bash\nlmcourse doctor --offline\n```\nafter", 2),
        ('<img src="x.png" alt="a b c"> x', 1),
        ("`a` = 1", 2),
    ],
)
def test_count_words_counts_running_text(prose: str, words: int) -> None:
    assert count_words(prose) == words


def ran(*outputs, count: int | None = 1):  # type: ignore[no-untyped-def]
    cell = nbformat.v4.new_code_cell("1", execution_count=count, outputs=list(outputs))
    return nbformat.v4.new_notebook(cells=[cell])


def printed(text: str, name: str = "stdout"):  # type: ignore[no-untyped-def]
    return nbformat.v4.new_output("stream", text=text, name=name)


@pytest.mark.parametrize(
    ("notebook", "said"),
    [
        (ran(count=None), "never run"),
        (ran(printed("<object at 0x7f12ab34cd>")), "a memory address"),
        (ran(printed("saved in /home/someone/models")), "a path of this machine"),
        (ran(printed("\x1b[31mred\x1b[0m")), "a terminal colour code"),
        (ran(printed("warning", "stderr")), "text on stderr"),
        (ran(nbformat.v4.new_output("error", ename="ValueError", evalue="no", traceback=[])), "an error output"),
    ],
)
def test_notebook_that_must_not_be_committed(notebook, said: str) -> None:
    assert any(said in fault for fault in notebook_faults(notebook, "x.ipynb"))


def test_widget_state_is_a_fault() -> None:
    notebook = ran()
    notebook.metadata["widgets"] = {}
    assert notebook_faults(notebook, "x.ipynb") == ["x.ipynb: widget state in the metadata"]


def test_harmless_outputs_pass() -> None:
    fine = printed("~/internlm2-chat-1_8b → ../lmcourse/bundled/tiny-chat, 1.5 GB/s, and/or, 0x10")
    assert notebook_faults(ran(fine), "x.ipynb") == []
