from __future__ import annotations

import pytest

from lmcourse.authoring import read_lesson
from lmcourse.errors import ConfigError


def test_read_lesson_keeps_what_the_headers_say(write) -> None:
    lesson = write()
    assert (lesson.name, lesson.number, lesson.languages) == ("02_small", 2, ("en", "zh"))
    assert [cell.kind for cell in lesson.cells].count("code") == 5
    measured = next(cell for cell in lesson.cells if "measured" in cell.tags)
    assert lesson.path.read_text().splitlines()[measured.line - 1] == '# %% tags=["measured"]'
    assert [cell.exercise for cell in lesson.cells if cell.exercise] == ["2.2"] * 3
    assert [cell.is_check for cell in lesson.cells].count(True) == 2


def test_cells_in_selects_one_language(write) -> None:
    lesson = write()
    texts = "".join(cell.text for cell in lesson.cells_in("zh"))
    assert "小" in texts
    assert "The same in every language" in texts
    assert "Prose with" not in texts
    assert len(lesson.cells_in("en")) == len(lesson.cells_in("zh"))


def test_unmarked_lesson_is_english(write) -> None:
    lesson = write("# %% [markdown]\n# Hello\n")
    assert lesson.languages == ("en",)
    with pytest.raises(ConfigError, match="not written in 'zh'"):
        lesson.cells_in("zh")


def test_magics_come_back_from_comments(write) -> None:
    assert (
        write("# %% [markdown]\n# A\n\n# %%\n# %matplotlib inline\n# !ls\n").cells[1].text == "%matplotlib inline\n!ls"
    )


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ('# %% lang="en"', "a code cell has a language"),
        ('# %% [markdown] lang="fr"', "en | zh"),
        ('# %% tags=["slow"]', "an unknown tag"),
        ('# %% hidden=true', "an unknown key"),
        ("# %% [raw]", "an unknown kind of cell"),
    ],
)  # fmt: skip
def test_bad_header_is_named_with_its_line(write, header: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        write(f"# %% [markdown]\n# Fine\n\n{header}\n# text\n")
    assert said in str(caught.value)
    assert "02_small.py:10" in str(caught.value)


def test_text_outside_cells_is_refused(write) -> None:
    with pytest.raises(ConfigError, match="outside its cells"):
        write("print('lost')\n\n# %% [markdown]\n# A\n")


@pytest.mark.parametrize("name", ["small", "1_small", "01-small", "01_Small"])
def test_bad_file_name_is_refused(tmp_path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"NN_name\.py"):
        read_lesson(tmp_path / f"{name}.py")
