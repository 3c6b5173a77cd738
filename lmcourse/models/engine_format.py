"""The engine's own («TurboMind») format: weights as the decoder holds them, and what the config said, understood.

    turbomind.json                     version, ModelSpec, family, which files hold the weights
    weights-0001-of-0002.safetensors   canonical tensors, in the decoder's order, in the dtype they were stored in
    tokenizer.json, config.json, …     copied; config.json is kept for the chat template and for people

Loading needs no family's names or layouts any more: every tensor is read once, whole, in order.

Lesson: 2 (what the engine format is)
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmcourse.errors import CheckpointError, ConfigError
from lmcourse.models.files import read_json
from lmcourse.models.hf_config import token_ids
from lmcourse.models.quantisation import read_quantisation
from lmcourse.models.safetensors_file import read_header
from lmcourse.models.spec_limits import check_limits
from lmcourse.spec import ExpertSpec, ModelSpec, RotarySpec

__all__ = ["ENGINE_FILE", "EngineManifest", "detect_format"]

ENGINE_FILE = "turbomind.json"
_KINDS: dict[str, tuple[type, ...]] = {  # what JSON gives for each annotation in spec.py
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "str": (str,),
    "int | None": (int, type(None)),
    "str | None": (str, type(None)),
    "float | None": (int, float, type(None)),
    "tuple[int, ...]": (list,),
    "tuple[float, ...]": (list,),
    "RotarySpec": (dict,),
    "ExpertSpec | None": (dict, type(None)),
}
_FORMAT, _VERSION = "lmcourse-turbomind", 2  # 2: words of 4-bit weights in the order of the tensor cores


@dataclass(frozen=True)
class EngineManifest:
    """What turbomind.json says."""

    spec: ModelSpec
    family: str  # a name of models/families.py, for people: nothing depends on it
    weight_files: tuple[str, ...]
    num_bytes: int  # of all weights

    def write(self, folder: Path) -> None:
        """Write turbomind.json."""
        content = {"format": _FORMAT, "version": _VERSION} | dataclasses.asdict(self)
        (folder / ENGINE_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> EngineManifest:
        """Read turbomind.json; CheckpointError for another version, or if it was damaged."""
        path = folder / ENGINE_FILE
        content = read_json(path)
        stated = (content.pop("format", None), content.pop("version", None))
        if stated != (_FORMAT, _VERSION):
            raise _unreadable(path, f"format {_FORMAT}, version {_VERSION}", f"format {stated[0]}, version {stated[1]}")
        try:
            spec = _spec(content.pop("spec"))
            manifest = cls(spec=check_limits(spec, path), **content)
            return dataclasses.replace(manifest, weight_files=tuple(manifest.weight_files))
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise _unreadable(path, "the settings that `lmcourse convert` writes", str(error)) from error


_WANTED = {
    "hf": "Hugging Face files with plain weights",
    "awq": "Hugging Face files with a quantization_config of AWQ, as `lmcourse lite auto_awq` writes them",
    "turbomind": f"{ENGINE_FILE}, as `lmcourse convert` writes it",
}


def detect_format(folder: Path, wanted: str | None = None) -> str:
    """ "hf", "awq" or "turbomind", by the files that are there; ConfigError if `wanted` is another one."""
    found = "turbomind" if (folder / ENGINE_FILE).exists() else "awq" if _is_awq(folder) else "hf"
    if wanted not in (None, found):
        raise ConfigError(
            f"the folder is not in {wanted} format",
            expected=_WANTED[wanted],
            got=f"{found} format",
            where=folder,
            next_step="leave model_format out, and it is detected",
        )
    return found


def _is_awq(folder: Path) -> bool:
    """What config.json says; where it says nothing (LMDeploy 0.3.0), the tensors' names."""
    config = folder / "config.json"
    if config.is_file() and read_quantisation(read_json(config)) is not None:
        return True
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = read_json(index).get("weight_map")
        return isinstance(names, dict) and any(str(name).endswith(".qweight") for name in names)
    single = folder / "model.safetensors"
    return single.is_file() and any(name.endswith(".qweight") for name in read_header(single))


def _spec(content: dict[str, Any]) -> ModelSpec:
    """TypeError or ValueError, naming the field, for anything that a ModelSpec cannot hold."""
    _check_kinds(ModelSpec, content)
    _check_kinds(RotarySpec, content["rotary"])
    read = {"rotary": RotarySpec(**content["rotary"]), "eos_ids": token_ids(content["eos_ids"], "eos_ids")}
    if content.get("experts") is not None:
        _check_kinds(ExpertSpec, content["experts"])
        stated = content["experts"] | {"dense_layers": tuple(map(int, content["experts"].get("dense_layers", ())))}
        read["experts"] = ExpertSpec(**stated)
    if "alibi_slopes" in content:
        read["alibi_slopes"] = tuple(map(float, content["alibi_slopes"]))
    return ModelSpec(**content | read)


def _check_kinds(cls: type, content: dict[str, Any]) -> None:
    """A field with a default may be absent: the model was converted before the field was there."""
    for field in dataclasses.fields(cls):
        if field.name not in content and field.default is not dataclasses.MISSING:
            continue
        value = content[field.name]
        if type(value) not in _KINDS[str(field.type)]:
            raise TypeError(f"{field.name} is {value!r}")


def _unreadable(path: Path, expected: str, got: str) -> CheckpointError:
    next_step = "convert the model again with this version of lmcourse"
    return CheckpointError(f"{path.name} cannot be read", expected=expected, got=got, where=path, next_step=next_step)
