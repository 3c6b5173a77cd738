"""`lmcourse list`."""

import json

from lmcourse.__main__ import main
from lmcourse.models import FAMILIES


def test_json_has_a_row_per_family(capsys):
    assert main(["list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["family"] for row in rows] == [family.name for family in FAMILIES]
    assert all(set(row) == {"family", "architectures", "modality", "status"} for row in rows)
    internlm2 = next(row for row in rows if row["family"] == "InternLM2")
    assert (internlm2["architectures"], internlm2["status"]) == (["InternLM2ForCausalLM"], "runs")


def test_table_is_aligned(capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    column = lines[0].index("architectures")
    table, (gap, bundled, dummies) = lines[:-3], lines[-3:]
    assert len(table) == len(FAMILIES) + 1
    assert all(line[column - 1] == " " != line[column] for line in table)
    assert gap == ""
    assert "tiny-chat" in bundled
    assert "dummy:internlm2-1_8b" in dummies


def test_check_runs_a_tiny_model_of_each_row(capsys):
    assert main(["list", "--check"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0].strip() for line in lines] == [family.name for family in FAMILIES]
    assert all(line[21:23] == "ok" for line, family in zip(lines, FAMILIES, strict=True) if family.modality == "text")
