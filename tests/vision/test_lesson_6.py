"""Lesson 6 on a model with other sizes: LLaVA-1.6's structure in both layouts, every cell."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

LESSON = Path(__file__).parents[2] / "instructor" / "solutions" / "06_llava.ipynb"


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["1.6-hf", "1.6-liuhaotian"])
def test_lesson_runs_on_another_llava(kind, llavas, monkeypatch, tmp_path):
    monkeypatch.setenv("LMCOURSE_LLAVA", str(llavas[kind].folder))
    notebook = nbformat.read(LESSON, as_version=4)  # type: ignore[no-untyped-call]
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    told = {cell.source: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    (tower,) = [outputs for source, outputs in told.items() if "seen by the tower" in source]
    assert ", 16, 32]" in tower[0].text, "16 patches of a tile, 32 features of this tower"
    (agrees,) = [outputs for source, outputs in told.items() if "the same tokens" in source]
    assert [output.text for output in agrees] == (["the same tokens: True\n"] if kind.endswith("hf") else [])
