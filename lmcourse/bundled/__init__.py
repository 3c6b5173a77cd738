"""The models and texts that come with the package: generated and trained by this project (zoo/), data only.

tiny-chat → InternLM2-architecture chat model in Hugging Face format; its card is tiny-chat/README.md.
"""

from __future__ import annotations

from pathlib import Path

from lmcourse.errors import ModelNotFoundError

__all__ = ["bundled_names", "model_path"]

_ROOT = Path(__file__).parent


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
