"""Peers: ranks on the GPUs of one host, which write into each other's memory instead of sending messages.

The idea: the sums of a decode step are a few KiB, and what they cost is not their bytes but who waits for whom. With
every rank's slots mapped into every other rank's addresses (CUDA IPC) a sum is one kernel, kernels/rank_sum.py.
Sums of long prompts are many MiB; those stay with NCCL.

Contract: `join_peers` is called by all ranks; all of them get peers, or none.

Lesson: 9 (more than one GPU)
"""

from __future__ import annotations

import json
import socket
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed import Store  # type: ignore[attr-defined]

from lmcourse.kernels.dispatch import runs_triton
from lmcourse.kernels.rank_sum import TILE, Mailbox, mailbox_bytes, rank_sum
from lmcourse.layers.parallel import GroupRanks

__all__ = ["PeerRanks", "join_peers"]

_MOST_ELEMENTS = 512 * TILE  # 128 tokens of 4096 features


@dataclass(frozen=True)
class PeerRanks(GroupRanks):
    """A group whose small sums go through memory."""

    mailbox: Mailbox
    opened: Sequence[Any]  # the memory behind the mailbox's addresses, which is there as long as this is

    def add_up(self, parts: Tensor) -> Tensor:
        """As GroupRanks', the same bits on every rank."""
        if parts[0].numel() > self.mailbox.most_elements:
            return super().add_up(parts)
        return rank_sum(parts, self.mailbox)

    def let_go(self) -> None:
        """Kernels that wait for a lost rank go on, and what they compute is void."""
        self.mailbox.halted.fill_(1)
        super().let_go()


def join_peers(ranks: GroupRanks, store: Store) -> GroupRanks:
    """PeerRanks where every rank's GPU can write to every other's memory; `ranks` as they are elsewhere."""
    if not ranks.least(int(_reaches_all(ranks, store))):
        return ranks
    try:
        peers: GroupRanks = _map_memory(ranks, store)
    except RuntimeError as error:  # a system that hands no memory on
        warnings.warn(f"sums over GPUs go through NCCL, slower: {error}", stacklevel=2)
        peers = ranks
    return peers if ranks.least(int(peers is not ranks)) else ranks


def _reaches_all(ranks: GroupRanks, store: Store) -> bool:
    """Whether all are GPUs of this host, linked to each other, on which Triton runs."""
    own = ranks.device.index or 0
    store.set(f"place-{ranks.rank}", f"{socket.gethostname()} {own}")
    places = [store.get(f"place-{rank}").decode().rsplit(" ", 1) for rank in range(ranks.size)]
    if ranks.device.type != "cuda" or any(host != socket.gethostname() for host, _ in places):
        return False
    others = [int(index) for _, index in places if int(index) != own]
    linked = all(torch.cuda.can_device_access_peer(own, other) for other in others)
    return runs_triton(ranks.device) and len(others) == ranks.size - 1 and linked


def _map_memory(ranks: GroupRanks, store: Store) -> PeerRanks:
    """RuntimeError where the system does not let memory be handed on."""
    slot_bytes, flag_bytes = mailbox_bytes(ranks.size, _MOST_ELEMENTS)
    own = torch.zeros(slot_bytes + flag_bytes, dtype=torch.uint8, device=ranks.device)
    torch.cuda.synchronize(ranks.device)  # nobody raises a flag before all are down
    store.set(f"memory-{ranks.rank}", _describe(own.untyped_storage()))
    told = [store.get(f"memory-{rank}").decode() for rank in range(ranks.size)]
    opened = [
        own.untyped_storage() if rank == ranks.rank else _open(text, ranks.device) for rank, text in enumerate(told)
    ]
    slots = torch.tensor([storage.data_ptr() for storage in opened], device=ranks.device)
    epochs = torch.zeros(_MOST_ELEMENTS // TILE, dtype=torch.int64, device=ranks.device)
    halted = torch.zeros(1, dtype=torch.int32, pin_memory=True)
    mailbox = Mailbox(ranks.rank, slots, slots + slot_bytes, epochs, halted, _MOST_ELEMENTS)
    return PeerRanks(ranks.group, ranks.device, ranks.watch, mailbox, opened)


def _describe(storage: Any) -> str:
    """CUDA's handle of the memory and what torch wants to know beside it; bytes as hex."""
    return json.dumps([part.hex() if isinstance(part, bytes) else part for part in storage._share_cuda_()])


def _open(text: str, device: torch.device) -> Any:
    """Another process's memory, at addresses of this device, which reaches it over the link."""
    _, handle, size, offset, counter, counter_offset, event, waits = json.loads(text)
    memory = (bytes.fromhex(handle), size, offset, bytes.fromhex(counter), counter_offset, bytes.fromhex(event), waits)
    return torch.UntypedStorage._new_shared_cuda(device.index or 0, *memory)
