"""The one byte form of a committed notebook, so that two builds of the same lesson differ nowhere.

Keys sorted, one space of indentation, text lines as lists, no trailing spaces of JSON, one newline at the end; of the
metadata only what a reader or a test needs. `fixed` brings a notebook that somebody saved in JupyterLab into that
form.

Lesson: 1 (how this course is made)
"""

from __future__ import annotations

import copy
import json

import nbformat

__all__ = ["canonical_bytes", "fixed", "read_notebook"]

_NOTEBOOK_METADATA = ("kernelspec", "language_info", "lmcourse")
_CELL_METADATA = ("tags", "lmcourse")


def read_notebook(data: bytes) -> nbformat.NotebookNode:
    """A notebook from its bytes, checked against the notebook format."""
    notebook = nbformat.reads(data.decode("utf-8"), as_version=4)
    nbformat.validate(notebook)
    return notebook


def canonical_bytes(notebook: nbformat.NotebookNode) -> bytes:
    """The bytes that this notebook has on disk."""
    nbformat.validate(notebook)
    split = nbformat.v4.rwbase.split_lines(copy.deepcopy(notebook))
    return (json.dumps(split, ensure_ascii=False, indent=1, sort_keys=True) + "\n").encode("utf-8")


def fixed(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A copy without what editors add: widget state, language versions, timings, collapsed flags."""
    clean = copy.deepcopy(notebook)
    clean.metadata = {key: clean.metadata[key] for key in _NOTEBOOK_METADATA if key in clean.metadata}
    clean.metadata["language_info"] = {"name": "python"}
    for cell in clean.cells:
        cell.metadata = {key: cell.metadata[key] for key in _CELL_METADATA if key in cell.metadata}
    return clean
