"""A rank beside rank 0: loads its share of the model, then follows until it is told to stop.

    started with {"rank": 1, "meeting": …, "folder": …, "device": …, "parent": 4711, "config": {…}}

Contract: it ends when rank 0 says so or is gone, at once; what it has to complain about goes to stderr, where rank 0
finds it.

Lesson: 9 (more than one GPU)
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch.distributed import FileStore  # type: ignore[attr-defined]

from lmcourse.config import TurbomindEngineConfig
from lmcourse.engine.assembly import assemble
from lmcourse.engine.crew import Crew, join, start_crew
from lmcourse.engine.crew_meeting import Meeting
from lmcourse.engine.crew_steps import Mirror
from lmcourse.engine.settings import choose_dtype
from lmcourse.errors import MachineError
from lmcourse.layers import Alone, cut_spec

__all__ = ["follow", "gather_crew", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 if rank 0 ended it."""
    task = json.loads((sys.argv[1:] if arguments is None else arguments)[0])
    config = TurbomindEngineConfig(**task["config"])
    store = FileStore(task["meeting"], config.tp)
    meeting = Meeting(store, task["rank"], config.tp, task["rank"])
    crew = join(meeting, torch.device(task["device"]), partial(_stay_with, task["parent"]))
    try:
        follow(crew, Path(task["folder"]), config)
    except (RuntimeError, MachineError):  # rank 0 is gone
        crew.let_go()
        raise
    return 0


def _stay_with(parent: int) -> None:
    """MachineError if rank 0 is gone: a process that lost its parent is given another."""
    if os.getppid() != parent:
        raise MachineError("rank 0 of this engine is gone", where="tp")


def follow(crew: Crew, folder: Path, config: TurbomindEngineConfig) -> None:
    """Do what rank 0 does until it says that this was all."""
    from lmcourse.models import load_decoder, load_spec

    device = crew.ranks.device
    dtype = choose_dtype(config, load_spec(folder).dtype, device)
    decoder = load_decoder(folder, dtype=dtype, device=device, model_format=config.model_format, ranks=crew.ranks)
    machine = assemble(decoder, config)
    mirror = Mirror(decoder.spec.vocab)
    while message := crew.listen():
        mirror.follow(machine.runner, message)


def gather_crew(folder: Path, config: TurbomindEngineConfig, device: torch.device) -> Crew:
    """Rank 0's crew. Under torchrun every process comes here: all but rank 0 follow it until it is done, and exit."""
    from lmcourse.models import load_spec

    cut_spec(load_spec(folder), Alone(size=config.tp))  # before anybody is started
    crew = start_crew(folder, config, device)
    if crew.ranks.rank:
        try:
            follow(crew, folder, config)
        except (RuntimeError, MachineError) as error:  # rank 0 is gone, or another
            crew.explain(error)
            raise
        sys.exit(0)
    return crew
