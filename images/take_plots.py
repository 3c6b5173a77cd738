"""Pictures that lessons made when they were last built: `python images/take_plots.py` puts them beside this file."""

from __future__ import annotations

import base64
import json
from pathlib import Path

HERE = Path(__file__).parent
PLOTS = {  # picture → lesson, and what its words begin with
    "lesson_7.png": ("07_benchmark", "Tokens per second; dashed: what this machine would allow"),
}


def plot(lesson: str, words: str) -> bytes:
    """The first picture of a lesson whose alternative text begins so."""
    notebook = json.loads((HERE.parent / "notebooks" / f"{lesson}.ipynb").read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data and "".join(data.get("text/plain", "")).startswith(words):
                return base64.b64decode("".join(data["image/png"]))
    raise SystemExit(f"lesson {lesson} holds no such picture; build it")


if __name__ == "__main__":
    for name, (lesson, words) in PLOTS.items():
        (HERE / name).write_bytes(plot(lesson, words))
