"""Which model the course will use, and the link ~/internlm2-chat-1_8b that makes the lesson's commands work as printed.

    course model            LMCOURSE_MODEL, or else the bundled tiny-chat
    ~/internlm2-chat-1_8b   the real InternLM2-chat-1.8B, if somebody put it there; otherwise a link to the bundled
                            tiny-chat. A real folder is never touched; a link can be replaced.

Lesson: 1 (where models live)
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lmcourse.bundled import model_path
from lmcourse.doctor.report import Row
from lmcourse.errors import LmcourseError, ModelNotFoundError, StorageError

__all__ = ["ModelFacts", "check_lesson_link", "check_model", "find_real_models", "fits", "link_model", "probe_model"]

GIB = 1024**3
BUNDLED = "tiny-chat"
LINK_NAME = "internlm2-chat-1_8b"
MODEL_VARIABLE = "LMCOURSE_MODEL"
_LINK_COMMAND = "lmcourse doctor --link-model"
# Where class machines and downloads put the real model, relative to the home folder where not absolute.
_USUAL_PLACES = (
    f"share/new_models/Shanghai_AI_Laboratory/{LINK_NAME}",
    f"/share/new_models/Shanghai_AI_Laboratory/{LINK_NAME}",
    f"/root/share/new_models/Shanghai_AI_Laboratory/{LINK_NAME}",
    "internlm2-chat-1.8b",
)


@dataclass(frozen=True)
class ModelFacts:
    """One model folder: None for weight_bytes means that files are missing or unreadable, and `problem` says which."""

    folder: Path
    weight_bytes: int | None
    problem: str | None = None


def probe_model(folder: Path) -> ModelFacts:
    """Sizes and completeness by names and file sizes alone; nothing is loaded."""
    if not os.path.isfile(folder / "config.json"):  # unlike Path.is_file, False for a folder of another user
        return ModelFacts(folder, None, "no config.json")
    if os.path.isfile(folder / "random_weights.json"):
        return ModelFacts(folder, _count_drawn_bytes(folder))
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError):
            return ModelFacts(folder, None, f"{index.name} cannot be read")
    else:
        names = sorted(path.name for path in folder.glob("*.safetensors")) or ["model.safetensors"]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        return ModelFacts(folder, None, f"{', '.join(missing[:3])} missing")
    return ModelFacts(folder, sum((folder / name).stat().st_size for name in names))


def _count_drawn_bytes(folder: Path) -> int:
    """Of a model with random weights (dummy:internlm2-1_8b), in 16 bits."""
    from lmcourse.accounting import count_parameters
    from lmcourse.models import load_spec

    return 2 * count_parameters(load_spec(folder)).total


def fits(weight_bytes: int, memory_bytes: int, *, has_gpu: bool) -> bool:
    """Whether weights and a useful KV cache (half a GiB) fit; on the CPU float16 weights double to float32."""
    return weight_bytes * (1 if has_gpu else 2) + GIB // 2 <= memory_bytes


def find_real_models(home: Path, places: Sequence[str] = _USUAL_PLACES) -> list[ModelFacts]:
    """Complete copies of InternLM2-chat-1.8B in the usual places and in Hugging Face's cache."""
    hub = Path(os.environ.get("HF_HOME", home / ".cache" / "huggingface")) / "hub"
    snapshots = sorted((hub / f"models--internlm--{LINK_NAME}" / "snapshots").glob("*"))
    candidates = [home / place for place in places] + snapshots
    return [facts for facts in map(probe_model, candidates) if facts.weight_bytes is not None]


def _describe(facts: ModelFacts) -> str:
    size = (facts.weight_bytes or 0) / 1024**2
    return f"{size:.0f} MiB" if size < 1024 else f"{size / 1024:.1f} GiB"


def check_model(environment: Mapping[str, str], memory_bytes: int | None, *, has_gpu: bool) -> Row:
    """The model that lessons and commands use where none is named."""
    asked = environment.get(MODEL_VARIABLE, "").strip()
    if not asked:
        return Row("course model", "ok", f"{BUNDLED} (bundled); {MODEL_VARIABLE} not set")
    facts = _find_asked(asked)
    found = f"{MODEL_VARIABLE}={asked}"
    if facts.weight_bytes is None:
        return Row("course model", "fix", f"{found}: {facts.problem}", f"unset {MODEL_VARIABLE}")
    found += f", {_describe(facts)}"
    if memory_bytes is not None and not fits(facts.weight_bytes, memory_bytes, has_gpu=has_gpu):
        return Row("course model", "fix", found + _too_large(memory_bytes), f"export {MODEL_VARIABLE}={BUNDLED}")
    return Row("course model", "ok", found)


def _too_large(memory_bytes: int) -> str:
    return f": too large for {memory_bytes / GIB:.1f} GiB"


def _bundled_folder() -> Path | None:
    try:
        return model_path(BUNDLED).resolve()
    except ModelNotFoundError:
        return None


def _find_asked(asked: str) -> ModelFacts:
    from lmcourse.text.hub import find_model

    try:
        return probe_model(Path(find_model(asked, download=False)).resolve())
    except LmcourseError as error:
        return ModelFacts(Path(asked), None, error.what)


def check_lesson_link(home: Path, real: Sequence[ModelFacts], memory_bytes: int | None, *, has_gpu: bool) -> Row:
    """~/internlm2-chat-1_8b, and the offer of the real model where one lies about and fits."""
    link, name = home / LINK_NAME, f"~/{LINK_NAME}"
    offers = [f for f in real if memory_bytes and fits(f.weight_bytes or 0, memory_bytes, has_gpu=has_gpu)]
    offer = f"{_LINK_COMMAND}  # uses {offers[0].folder}" if offers else None
    if link.is_symlink() and not link.exists():
        return Row(name, "fix", f"a broken link to {link.readlink()}", _LINK_COMMAND)
    if not link.exists():
        return Row(name, "fix", "missing: the lesson's commands name this folder", _LINK_COMMAND)
    facts = probe_model(link)
    if facts.weight_bytes is None:
        return Row(name, "fix", f"incomplete: {facts.problem}", f"mv {link} {link}.incomplete && {_LINK_COMMAND}")
    if link.resolve() == _bundled_folder():
        found = f"linked to the bundled {BUNDLED}"
        return Row(name, "ok", f"{found}; the real one is here too", offer) if offer else Row(name, "ok", found)
    where = f"linked to {link.resolve()}" if link.is_symlink() else "a folder of its own"
    found = f"{where}, {_describe(facts)}"
    if memory_bytes is not None and not fits(facts.weight_bytes, memory_bytes, has_gpu=has_gpu):
        return Row(name, "warn", found + _too_large(memory_bytes), f"lmcourse chat {BUNDLED}  # in its place")
    return Row(name, "ok", found)


def link_model(home: Path, target: Path | None = None) -> Path:
    """Make ~/internlm2-chat-1_8b a link to `target`, or to the bundled tiny-chat; gives back what it leads to.

    A link that is there is replaced in one step. A real folder of that name stays as it is.
    """
    link = home / LINK_NAME
    target = (target or model_path(BUNDLED)).expanduser().resolve()
    if link.exists() and not link.is_symlink():
        return link
    facts = probe_model(target)
    if facts.weight_bytes is None:
        raise ModelNotFoundError(
            "this folder is no complete model", expected="config.json and its safetensors", got=facts.problem,
            where=target, next_step="give another folder, or none for the bundled model",
        )  # fmt: skip
    beside = link.with_name(f".{LINK_NAME}.{os.getpid()}")
    try:
        beside.symlink_to(target, target_is_directory=True)
        beside.replace(link)
    except OSError as error:
        with suppress(OSError):  # a disk that cannot be written to does not let us remove anything either
            beside.unlink()
        raise StorageError(
            "the link could not be made", got=error, where=link, next_step=f"cp -r {target} {link}"
        ) from error
    return target
