"""ConfigReader: values of a config.json, checked one by one, under the names that its family has for them.

    reader.count("num_hidden_layers")      llama: num_hidden_layers      chatglm: num_layers

A value of the wrong kind is a CheckpointError that says which key; a value that is right and asks for arithmetic that
the engine has not is an UnsupportedModelError (`only`).

Lesson: 2 (what a format holds)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmcourse.errors import CheckpointError, UnsupportedModelError

__all__ = ["ConfigReader", "token_ids", "unsupported", "wrong_value"]

_DTYPES = ("float16", "bfloat16", "float32")


class ConfigReader:
    """One config, and what its family calls Llama's keys; keys not listed have Llama's names."""

    def __init__(self, config: Mapping[str, Any], keys: Mapping[str, str] | None = None) -> None:
        self.config, self._keys = config, keys or {}

    def key(self, name: str) -> str:
        """What the family calls it."""
        return self._keys.get(name, name)

    def get(self, name: str, default: object = None) -> Any:
        """Unchecked; null counts as absent."""
        value = self.config.get(self.key(name))
        return default if value is None else value

    def count(self, name: str, *, default: int | None = None) -> int:
        """A whole number, 1 or more."""
        value = self.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise wrong_value(self.key(name), "a whole number, 1 or more", value)
        return value

    def whole(self, name: str) -> int:
        """A whole number, 0 or more; 0 if absent."""
        return 0 if self.get(name, 0) == 0 else self.count(name)

    def table(self, name: str) -> Mapping[str, Any]:
        """An object inside the config; empty if absent."""
        value = self.get(name, {})
        if not isinstance(value, Mapping):
            raise wrong_value(self.key(name), "an object", value)
        return value

    def number(self, name: str, *, default: float) -> float:
        """A finite number above 0."""
        value = self.get(name, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e30:
            raise wrong_value(self.key(name), "a finite number above 0", value)
        return float(value)

    def flag(self, name: str, *, default: bool) -> bool:
        """True or false."""
        value = self.config.get(self.key(name), default)
        if not isinstance(value, bool):
            raise wrong_value(self.key(name), "true or false", value)
        return value

    def ids(self, name: str, *, default: int | None = None) -> tuple[int, ...]:
        """Token ids; null means none, an absent key the default."""
        return token_ids(self.config.get(self.key(name), default), self.key(name))

    def dtype(self) -> str:
        """Of the stored weights."""
        stated = self.get("dtype") or self.get("torch_dtype") or "float16"
        name = str(stated).removeprefix("torch.")
        if name not in _DTYPES:
            raise wrong_value("torch_dtype", " | ".join(_DTYPES), stated)
        return name

    def only(self, options: Mapping[str, tuple[object, ...]]) -> None:
        """UnsupportedModelError unless each key that is there has one of its values."""
        for name, known in options.items():
            value = self.get(name)
            if value is not None and not any(value == item and type(value) is type(item) for item in known):
                raise unsupported(self.key(name), value, known)


def token_ids(value: object, key: str, file: str = "config.json") -> tuple[int, ...]:
    """Ids from one id, a list of ids, or None; the file is named where it is none of these."""
    values = [] if value is None else value if isinstance(value, list) else [value]
    for item in values:
        if not isinstance(item, int) or isinstance(item, bool) or item < 0:
            raise wrong_value(key, "a token id, a list of them, or null", value, file)
    return tuple(values)


def unsupported(key: str, value: object, known: tuple[object, ...]) -> UnsupportedModelError:
    """The error for an option of a known family that the engine does not compute."""
    return UnsupportedModelError(
        f"the engine does not compute {key} = {value!r}",
        expected=" | ".join(map(repr, known)),
        got=repr(value),
        where=f"config.json, {key}",
        next_step="use a model of the same family without it",
    )


def wrong_value(key: str, expected: str, value: object, file: str = "config.json") -> CheckpointError:
    """The error for a value that no config has."""
    got = "nothing" if value is None else repr(value)
    next_step = f"get {file} again from where the model came from"
    return CheckpointError(
        f"the config's {key} is wrong", expected=expected, got=got, where=f"{file}, {key}", next_step=next_step
    )
