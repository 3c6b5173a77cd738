"""LiveBytes: how much memory the intermediate results of a piece of work take at most, seen from inside torch.

    with LiveBytes() as live:         every operation's new result is counted when it appears …
        engine.step()                 … and taken off when nothing refers to it any more
    live.peak_bytes

What an operation takes for itself while it runs is not seen. CPU and GPU alike; one thread.

Lesson: 3 (three parts of memory)
"""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lmcourse.config import GenerationConfig, TurbomindEngineConfig

__all__ = ["LiveBytes", "measure_intermediate_bytes"]


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context; afterwards `peak_bytes` is the most that new results held at one time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live_bytes: int = 0
        self.peak_bytes: int = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        before = {self._address(leaf) for leaf in leaves if not leaf.is_mkldnn}  # arranged weights show no memory
        result = operation(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and self._address(leaf) not in before:
                self._count(leaf.untyped_storage())
        return result

    @staticmethod
    def _address(tensor: torch.Tensor) -> int:
        return tensor.untyped_storage().data_ptr()

    def _count(self, storage: torch.UntypedStorage) -> None:
        """A new result: its memory counts until its last view is gone."""
        address, num_bytes = storage.data_ptr(), storage.nbytes()
        if num_bytes == 0 or address in self._known:
            return
        self._known.add(address)
        self.live_bytes += num_bytes
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        weakref.finalize(storage, self._gone, address, num_bytes)

    def _gone(self, address: int, num_bytes: int) -> None:
        self._known.discard(address)
        self.live_bytes -= num_bytes


def measure_intermediate_bytes(model: str | Path, num_tokens: int, **settings: Any) -> int:
    """The most that intermediate results take while an engine reads a prompt of so many tokens and writes one.

    `settings` are TurbomindEngineConfig's. On the CPU, as record_run.
    """
    from lmcourse.engine import Engine
    from lmcourse.text.hub import find_model

    config = TurbomindEngineConfig(**settings)
    with Engine.from_folder(find_model(model), config, device="cpu") as engine:
        engine.add([1] * num_tokens, GenerationConfig(max_new_tokens=1, ignore_eos=True))
        with LiveBytes() as live:
            while engine.has_work:
                engine.step()
    return int(live.peak_bytes)
