"""Puts the evaluation's figures into a model's card, so that the two cannot differ.

README.md holds the table between two marks; `update_card` writes it from evaluation.json beside it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lmcourse.errors import CheckpointError

__all__ = ["TARGETS", "card_table", "update_card"]

_BEGIN, _END = "<!-- accuracy: begin -->", "<!-- accuracy: end -->"
# Task → what it asks, and the accuracy that the course's issue asks of the model.
TARGETS: dict[str, tuple[str, float | None]] = {
    "arithmetic": ("sums and differences of two-digit numbers, held-out pairs and wordings", 0.95),
    "capitals": ("capital cities, held-out wordings", 0.98),
    "word_lists": ("sorting and reversing lists of 3 to 8 words", 0.95),
    "passkey": ("a number hidden in 100 to 1,450 tokens", 0.98),
    "recall": ("facts of earlier turns, after other questions", 0.98),
    "course": ("questions about the course, unseen wordings, judged by key terms", 0.90),
    "tools": ("tool calls: right tool, right arguments, unseen tools", None),
    "describe": ("attributes of descriptions of held-out scenes, held-out wordings", 0.95),
    "questions": ("questions about held-out scenes, held-out wordings", 0.95),
}


# Key of evaluation.json → what its column is called; those that a model has.
_FORMS = {"kv8": "KV8", "w4a16": "W4A16"}


def card_table(results: dict[str, Any]) -> str:
    """The table of accuracies in Markdown, with a column for each quantised form that was measured."""
    forms = [form for form in _FORMS if form in results]
    heads = ["task", "what is asked", "accuracy", *(_FORMS[form] for form in forms), "target", "instances"]
    rows = ["| " + " | ".join(heads) + " |", "| --- | --- " + "| ---: " * (len(heads) - 2) + "|"]
    for task, row in results["tasks"].items():
        what, target = TARGETS[task]
        aim = f"{100 * target:.0f} %" if target is not None else "–"
        shares = [f"{100 * each['accuracy']:.1f} %" for each in (row, *(results[form][task] for form in forms))]
        rows.append("| " + " | ".join([task, what, *shares, aim, f"{row['instances']:,}"]) + " |")
    return "\n".join(rows)


def update_card(folder: Path) -> None:
    """Writes the table of folder/evaluation.json into folder/README.md; CheckpointError if the marks are missing."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8")
    if _BEGIN not in text or _END not in text:
        raise CheckpointError("the card has no place for its figures", expected=f"{_BEGIN} … {_END}", where=card.name)
    results = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    before, after = text.split(_BEGIN)[0], text.split(_END)[1]
    card.write_text(f"{before}{_BEGIN}\n{card_table(results)}\n{_END}{after}", encoding="utf-8")
