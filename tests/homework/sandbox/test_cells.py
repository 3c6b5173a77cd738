from __future__ import annotations

import pytest

from lmcourse.homework.sandbox.cells import CodeCell, find_answer

ANSWER = "def f(x):\n    return helper(x) + torch.tensor(SIZE).item() + local\n"


def test_only_what_is_used_is_taken_along() -> None:
    cells = [
        CodeCell("import torch, json\nimport heavy\npipe = heavy.load()\nSIZE = 3\nx = pipe('a prompt')"),
        CodeCell("def helper(x):\n    return x * FACTOR\n\nprint(helper(1))"),
        CodeCell("FACTOR = 2; local = 5\n'no statement that makes a name'"),
        CodeCell(ANSWER, "1.1"),
        CodeCell("SIZE = 9"),
    ]
    found = find_answer(cells, "1.1", "f")
    assert found is not None
    assert found.cells == (ANSWER,)
    assert [line.split("\n")[0] for line in found.before] == [
        "import torch, json", "SIZE = 3", "def helper(x):", "FACTOR = 2", "local = 5",
    ]  # fmt: skip


def test_arguments_and_own_variables_are_not_looked_for() -> None:
    cells = [
        CodeCell("x = load()\nkeys = load()\nlength = load()"),
        CodeCell("def f(x):\n    keys = [length for length in x]\n    return keys", "1.1"),
    ]
    found = find_answer(cells, "1.1", "f")
    assert found is not None
    assert found.before == ()


def test_answer_is_found_without_metadata_and_in_a_later_cell() -> None:
    stub = CodeCell("def f(x):\n    ...", "1.1")
    later = CodeCell("def f(x):\n    return 1")
    assert find_answer([later], "1.1", "f") is not None
    found = find_answer([stub, CodeCell("check(f)"), later], "1.1", "f")
    assert found is not None
    assert found.cells == (stub.source, later.source)
    assert find_answer([CodeCell("g = f(3)")], "1.1", "f") is None
    assert find_answer([CodeCell("f = lambda x: x")], "1.1", "f") is not None


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("%time f(1)\nx = 1", "pass\nx = 1"),
        ("if x:\n    !ls {x}\n    y = %timeit -o f()", "if x:\n    pass\n    pass"),
        ("%%time\nf = 1", "f = 1"),
        ("%%bash\nrm -rf f = 1", ""),
        ("f?\nf = 1", "pass\nf = 1"),
        ("a = b % c", "a = b % c"),
    ],
)
def test_magics_are_taken_out(source: str, wanted: str) -> None:
    found = find_answer([CodeCell(source, "1.1")], "1.1", "f")
    assert found is not None
    assert found.cells == (wanted,)


def test_broken_cells_matter_only_where_the_answer_is() -> None:
    good = CodeCell("def f(x):\n    return g", "1.1")
    assert find_answer([CodeCell("g = ((("), CodeCell("\x00"), good], "1.1", "f") is not None
    with pytest.raises(SyntaxError):
        find_answer([CodeCell("def f(:", "1.1")], "1.1", "f")
