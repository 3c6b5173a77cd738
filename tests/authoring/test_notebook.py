from __future__ import annotations

import pytest

from lmcourse.authoring import build_notebook, canonical_bytes
from lmcourse.errors import ConfigError


def code_of(notebook) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def test_student_edition_has_a_stub_and_no_solution(write) -> None:
    cells = code_of(build_notebook(write()))
    assert (
        cells[3] == 'def render(messages):\n    """The prompt of a conversation."""\n    ...  # write your answer here'
    )
    assert "im_start" not in "".join(cells)


def test_solution_edition_has_the_solution_without_marks(write) -> None:
    cells = code_of(build_notebook(write(), edition="solution"))
    assert 'return "".join(turns)' in cells[3]
    assert "SOLUTION" not in cells[3]


def test_stub_can_be_chosen_and_several_regions_replaced(write) -> None:
    text = (
        '# %% [markdown] exercise="2.2"\n# ## 2.2\n\n# %% exercise="2.2"\n'
        "# BEGIN SOLUTION stub: total = ...\ntotal = 3\n# END SOLUTION\nif total:\n    # BEGIN SOLUTION\n"
        "    total += 1\n    total += 2\n    # END SOLUTION\n    print(total)\n"
    )
    lesson = write(text)
    student, solution = code_of(build_notebook(lesson))[0], code_of(build_notebook(lesson, edition="solution"))[0]
    assert student == "total = ...\nif total:\n    ...  # write your answer here\n    print(total)"
    assert solution == "total = 3\nif total:\n    total += 1\n    total += 2\n    print(total)"


@pytest.mark.parametrize(
    "text",
    [
        '# %% exercise="2.2"\n# BEGIN SOLUTION\nx = 1\n',
        '# %% exercise="2.2"\nx = 1\n# END SOLUTION\n',
        '# %% exercise="2.2"\nx = 1\n',
        "# %%\n# BEGIN SOLUTION\nx = 1\n# END SOLUTION\n",
    ],
    ids=["no end", "no begin", "no region", "no exercise"],
)
def test_marks_that_do_not_pair_up_are_refused(write, text: str) -> None:
    with pytest.raises(ConfigError, match=r"02_small\.py:7"):
        build_notebook(write(text))


@pytest.mark.parametrize(
    ("edition", "language", "link"),
    [
        ("student", "en", "](../images/"),
        ("student", "zh", "](../../images/"),
        ("solution", "en", "](../../images/"),
        ("solution", "zh", "](../../../images/"),
    ],
)
def test_links_lead_from_where_the_notebook_lies(write, edition: str, language: str, link: str) -> None:
    assert link in build_notebook(write(), edition=edition, language=language).cells[0].source


def test_statement_gets_a_badge_from_the_exercise(write) -> None:
    statements = [
        next(c.source for c in build_notebook(write(), language=lang).cells if "2.2" in c.source)
        for lang in ("en", "zh")
    ]
    assert '*Difficulty ●○○ · about 10 minutes · stuck? `homework.hint("2.2")`' in statements[0]
    assert "*难度 ●○○ · 约 10 分钟" in statements[1]
    assert all(text.startswith("## ") for text in statements)


def test_measured_and_gpu_cells_are_not_compared(write) -> None:
    notebook = build_notebook(write('# %% [markdown]\n# A\n\n# %% tags=["measured"]\n1\n\n# %% tags=["gpu"]\n2\n'))
    assert [cell.metadata.get("tags") for cell in notebook.cells[1:]] == [
        ["measured", "nbval-ignore-output"],
        ["gpu", "nbval-ignore-output"],
    ]


def test_builds_are_equal_and_an_edit_changes_one_id(write) -> None:
    first, again = build_notebook(write()), build_notebook(write())
    assert canonical_bytes(first) == canonical_bytes(again)
    edited = build_notebook(write(write().path.read_text().partition("---\n\n")[2].replace('"one"', '"two"')))
    changed = [a.id != b.id for a, b in zip(first.cells, edited.cells, strict=True)]
    assert changed.count(True) == 1


def test_equal_cells_have_different_ids(write) -> None:
    notebook = build_notebook(write("# %% [markdown]\n# A\n\n# %%\n1\n\n# %% [markdown]\n# A\n\n# %%\n1\n"))
    assert len({cell.id for cell in notebook.cells}) == 4


def test_unknown_edition_is_named(write) -> None:
    with pytest.raises(ConfigError, match=r"student \| solution"):
        build_notebook(write(), edition="teacher")
