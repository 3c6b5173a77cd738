"""The models and texts that come with the package: generated and trained by this project (zoo/), data only.

tiny-chat  → InternLM2-architecture chat model in Hugging Face format; its card is tiny-chat/README.md.
tiny-llava → LLaVA-1.5-architecture model that sees, likewise; pictures come from zoo/pictures.
dummy/    → shapes of real models for measuring: configs and byte tokenizers; weights are drawn when they are loaded.
dummy_shapes.json → more of them, one a line: at least one published size of every family.
tiny_configs.json → for each family of the table a config.json of a few kilobytes of weights (models/tiny_models.py).
calibration.txt.xz → dialogues of the same kinds, for quantisation; zoo/calibration.py writes it.
"""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

from lmcourse.bundled.dummy_shapes import shape_folder, shape_names
from lmcourse.errors import ModelNotFoundError

__all__ = ["bundled_names", "calibration_text", "dummy_names", "dummy_path", "model_path", "tiny_configs"]

_ROOT, _DUMMY = Path(__file__).parent, "dummy:"


def bundled_names() -> tuple[str, ...]:
    """Names that `model_path` and every model argument accept, sorted."""
    return tuple(sorted(entry.parent.name for entry in _ROOT.glob("*/config.json")))


def model_path(name: str) -> Path:
    """The folder of a bundled model; ModelNotFoundError if there is none of that name."""
    if name in bundled_names():
        return _ROOT / name
    raise ModelNotFoundError(
        f"no bundled model is called {name!r}",
        expected=" | ".join(bundled_names()) or "a bundled model",
        got=name,
        where=_ROOT.name,
        next_step="for a model of your own give its folder to pipeline() or to the command",
    )


def dummy_names() -> tuple[str, ...]:
    """Names such as dummy:llama2-7b and dummy:llama2-7b:awq, sorted; the variant's folder is llama2-7b-awq."""
    return tuple(sorted(_DUMMY + name for name in (*_folder_names(), *shape_names())))


def _folder_names() -> tuple[str, ...]:
    return tuple(entry.parent.name.replace("-awq", ":awq") for entry in _ROOT.glob("dummy/*/config.json"))


def dummy_path(name: str) -> Path | None:
    """The folder of a model with random weights; None for a name that does not begin with dummy:."""
    if not name.startswith(_DUMMY):
        return None
    if name.removeprefix(_DUMMY) in shape_names():
        return shape_folder(name.removeprefix(_DUMMY))
    if name in dummy_names():
        return _ROOT / "dummy" / name.removeprefix(_DUMMY).replace(":", "-")
    raise ModelNotFoundError(
        f"no model with random weights is called {name[:80]!r}",
        expected=" | ".join(dummy_names()),
        got=name[:80],
        next_step="take one of these; for another shape put random_weights.json beside a config.json of your own",
    )


def tiny_configs() -> dict[str, dict[str, Any]]:
    """By the name of the family in the table, in the table's order."""
    configs: dict[str, dict[str, Any]] = json.loads((_ROOT / "tiny_configs.json").read_text(encoding="utf-8"))
    return configs


def calibration_text() -> str:
    """Dialogues in internlm2's chat format, about a quarter of a million tokens of tiny-chat."""
    return lzma.decompress((_ROOT / "calibration.txt.xz").read_bytes()).decode()
