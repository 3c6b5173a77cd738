"""Peers: ranks on the GPUs of one host, which write into each other's memory instead of sending messages.

The idea: the sums of a decode step are a few KiB, and what they cost is not their bytes but who waits for whom. With
symmetric memory (every rank's slots mapped into every other rank's addresses) a sum is one kernel, kernels/rank_sum.py.
Sums of long prompts are many MiB; those stay with NCCL.

Contract: `join_peers` is called by all ranks; all of them get peers, or none.

Lesson: 9 (more than one GPU)
"""

from __future__ import annotations

import socket
import uuid
import warnings
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._C._distributed_c10d import (  # symmetric memory has no public names for groups of one's own
    _register_process_group,
    _SymmetricMemory,
    _unregister_process_group,
)
from torch.distributed import PrefixStore, ProcessGroup, Store  # type: ignore[attr-defined]

from lmcourse.kernels.dispatch import runs_triton
from lmcourse.kernels.rank_sum import TILE, Mailbox, mailbox_bytes, rank_sum
from lmcourse.layers.parallel import GroupRanks

__all__ = ["PeerRanks", "join_peers"]

_MOST_ELEMENTS = 512 * TILE  # 128 tokens of 4096 features
_PASSED = torch.iinfo(torch.int64).max  # a flag beyond every epoch


@dataclass(frozen=True)
class PeerRanks(GroupRanks):
    """A group whose small sums go through memory."""

    mailbox: Mailbox
    own_flags: Tensor
    mapping: (
        Any  # of the memory behind the mailbox's addresses, and the group it needs, which live as long as this does
    )

    def add_up(self, parts: Tensor) -> Tensor:
        """As GroupRanks', the same bits on every rank."""
        if parts[0].numel() > self.mailbox.most_elements:
            return super().add_up(parts)
        return rank_sum(parts, self.mailbox)

    def let_go(self) -> None:
        """Kernels that wait for a lost rank go on, and what they compute is void."""
        with torch.cuda.stream(torch.cuda.Stream(self.device)):  # type: ignore[no-untyped-call]
            self.own_flags.fill_(_PASSED)
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
    name, group = _register(ranks, store)
    slot_bytes, flag_bytes = mailbox_bytes(ranks.size, _MOST_ELEMENTS)
    memory = _SymmetricMemory.empty_strided_p2p((slot_bytes + flag_bytes,), (1,), torch.uint8, ranks.device, name)
    own_flags = memory[slot_bytes:].view(torch.int64)
    own_flags.zero_()
    torch.cuda.synchronize(ranks.device)
    mapping = _SymmetricMemory.rendezvous(memory, name)
    ranks.least(0)  # nobody raises a flag before all are down
    slots = torch.tensor([int(address) for address in mapping.buffer_ptrs], device=ranks.device)
    epochs = torch.zeros(_MOST_ELEMENTS // TILE, dtype=torch.int64, device=ranks.device)
    mailbox = Mailbox(ranks.rank, slots, slots + slot_bytes, epochs, _MOST_ELEMENTS)
    peers = PeerRanks(ranks.group, ranks.device, mailbox, own_flags, (memory, mapping, group))
    weakref.finalize(peers, _unregister_process_group, name)
    return peers


def _register(ranks: GroupRanks, store: Store) -> tuple[Any, Any]:
    """The name under which symmetric memory finds the group, and the group, which the registry does not keep alive."""
    if ranks.rank == 0:
        store.set("name", f"lmcourse-{uuid.uuid4()}")
    name: Any = store.get("name").decode()  # of a type that older versions of torch do not have
    group: Any = ProcessGroup(PrefixStore("group", store), ranks.rank, ranks.size)
    group._register_backend(ranks.device, ProcessGroup.BackendType.NCCL, ranks.group)
    group._set_default_backend(ProcessGroup.BackendType.NCCL)
    group._set_group_name(name)
    _register_process_group(name, group)
    _SymmetricMemory.set_group_info(name, ranks.rank, ranks.size, PrefixStore("memory", store))
    return name, group
