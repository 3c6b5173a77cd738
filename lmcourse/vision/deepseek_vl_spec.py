"""DeepseekVlSpec, and the checked values that both readers of DeepSeek-VL's configs take from theirs.

Lesson: 6 (what is in the folder)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lmcourse.errors import CheckpointError, UnsupportedModelError
from lmcourse.vision.clip import ClipSpec
from lmcourse.vision.sam import SamSpec
from lmcourse.vision.square import Colours, Fitting

__all__ = [
    "PLAIN_COLOURS",
    "Config",
    "DeepseekVlSpec",
    "background",
    "read_colours",
    "read_count",
    "read_name",
    "read_number",
    "read_table",
    "uncovered",
    "wrong",
]

Config = Mapping[str, Any]
PLAIN_COLOURS = Colours((0.5,) * 3, (0.5,) * 3)  # what SigLIP was trained with


@dataclass(frozen=True)
class DeepseekVlSpec:
    """Everything about a DeepSeek-VL's eyes that is not a weight."""

    low: ClipSpec
    high: SamSpec | None
    num_maps: int  # linear maps between the towers and the language model, with GELU between them
    low_colours: Colours
    high_colours: Colours
    fitting: Fitting
    hidden: int = 0  # of the language model
    placeholder_id: int = 0

    @property
    def num_tokens(self) -> int:
        """Features that any picture becomes."""
        return self.low.patches_per_tile


def read_count(config: Config, key: str, default: int) -> int:
    """A whole number, 1 or more; null counts as absent."""
    value = config.get(key)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 2**20:
        raise wrong(key, "a whole number, 1 or more", value)
    return value


def read_number(config: Config, key: str, default: float) -> float:
    """A finite number above 0; null counts as absent."""
    value = config.get(key)
    value = default if value is None else value
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e9:
        raise wrong(key, "a number above 0", value)
    return float(value)


def read_name(config: Config, key: str, default: str, covered: Iterable[str], where: str) -> str:
    """One of the names that are covered."""
    value, names = config.get(key, default), list(covered)
    if value not in names:
        raise uncovered(f"{key} {value!r}"[:120], " | ".join(names), f"config.json, {where}")
    return str(value)


def read_table(config: Config, key: str) -> Config:
    """An object inside the config; empty if absent."""
    value = config.get(key) or {}
    if not isinstance(value, Mapping):
        raise wrong(key, "an object", value)
    return value


def read_colours(config: Config, default: Colours, prefix: str = "image_") -> Colours:
    """Mean and deviation under their keys."""
    pair = [config.get(prefix + key) or usual for key, usual in (("mean", default.mean), ("std", default.std))]
    for key, values in zip(("mean", "std"), pair, strict=True):
        numbers = isinstance(values, list | tuple) and all(_is_number(value) for value in values)
        if not numbers or len(values) != 3 or (key == "std" and min(values) <= 0):
            raise wrong(prefix + key, "three numbers, above 0 if deviations", values)
    return Colours(tuple(map(float, pair[0])), tuple(map(float, pair[1])))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e6


def background(colours: Colours | None) -> tuple[int, ...]:
    """The mean colour, which becomes 0; grey where there is none."""
    return (127,) * 3 if colours is None else tuple(int(part * 255) for part in colours.mean)


def wrong(key: str, expected: object, value: object) -> CheckpointError:
    """A value that is of the wrong kind, or does not go with the others."""
    return CheckpointError(
        f"the config's {key} is wrong or not covered",
        expected=expected,
        got=repr(value)[:120],
        where=f"config.json or preprocessor_config.json, {key}",
        next_step="get the folder's small files again from where the model came from",
    )


def uncovered(got: str, expected: str, where: str) -> UnsupportedModelError:
    """A value that is right, and asks for what is not here."""
    return UnsupportedModelError("this part of DeepSeek-VL is not covered", expected=expected, got=got, where=where)
