"""Trains tiny-chat from nothing: seeded, bounded in time or steps, one GPU (or a CPU, for a try).

    python -m lmcourse.zoo.train --out OUT --minutes 9          on a GPU
    python -m lmcourse.zoo.train --out OUT --steps 200 --device cpu --workers 1

Warm-up and a straight decay to nothing over the budget, bf16 autocast on CUDA, loss on the assistant's tokens only.
Every run with the same seed, steps and number of workers sees the same batches. The state is written at every report
and in the end.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import DataLoader

from lmcourse.zoo.batches import TOKENS_PER_BATCH, Batch, BatchStream
from lmcourse.zoo.captured import CapturedBackward
from lmcourse.zoo.checkpoint import TINY_CHAT, load_state, save_checkpoint
from lmcourse.zoo.corpus import dialogues, exchange
from lmcourse.zoo.decoder import TrainableDecoder
from lmcourse.zoo.decoding import ChatModel
from lmcourse.zoo.dialogue import Dialogue
from lmcourse.zoo.objective import learned_loss, learning_rate
from lmcourse.zoo.scenes import arithmetic, capitals, course, passkey, tools, word_lists
from lmcourse.zoo.scenes.recall import recall
from lmcourse.zoo.tokenizer import save_tokenizer, train_tokenizer
from lmcourse.zoo.updates import Updates

__all__ = ["Plan", "Run", "main", "train"]


@dataclass(frozen=True)
class Plan:
    """One training run; ends at `minutes` or `steps`, whichever comes first."""

    out: Path
    minutes: float = 9.0
    steps: int | None = None
    seed: int = 20261122
    device: str = "cuda"
    workers: int = 14
    tokens_per_batch: int = TOKENS_PER_BATCH
    batches_per_step: int = 2
    peak_rate: float = 2.5e-3
    report_seconds: float = 90.0
    checks: int = 100
    graphs: bool = True
    init: Path | None = None

    def progress(self, step: int, seconds: float) -> float:
        """How much of the run is over, 0 to 1: by steps where they are given, so that the run can be repeated."""
        by_time = seconds / (self.minutes * 60)
        return by_time if self.steps is None or by_time >= 1 else step / self.steps


def _checks(seed: int, count: int) -> dict[str, list[Dialogue]]:
    """Fresh training-like dialogues for quick accuracies, by kind; evaluation proper lives elsewhere."""
    rng = Random(seed)
    kinds: dict[str, Callable[[], Dialogue]] = {
        "sums": lambda: arithmetic.arithmetic(rng),
        "capitals": lambda: capitals.capital(rng),
        "lists": lambda: word_lists.word_list(rng),
        "course": lambda: course.course(rng),
        "recall": lambda: recall(rng, exchange),
        "tools": lambda: tools.tool_dialogue(rng, exchange),
        "passkey": lambda: passkey.passkey(rng),
    }
    return {name: [make() for _ in range(count)] for name, make in kinds.items()}


def _accuracies(chat: ChatModel, checks: dict[str, list[Dialogue]]) -> dict[str, float]:
    result = {}
    for name, made in checks.items():
        answers = chat([dialogue[:-1] for dialogue in made])
        right = [answer == dialogue[-1]["content"] for answer, dialogue in zip(answers, made, strict=True)]
        result[name] = sum(right) / len(right)
    return result


def _batches(plan: Plan) -> Iterator[Batch]:
    stream = BatchStream(plan.out / "tokenizer.json", seed=plan.seed, tokens_per_batch=plan.tokens_per_batch)
    loader = DataLoader(
        stream,
        batch_size=None,
        num_workers=plan.workers,
        pin_memory=plan.device == "cuda",
        prefetch_factor=6 if plan.workers else None,
        persistent_workers=plan.workers > 0,
    )
    return iter(loader)


class Run:
    """The state of one training run and its log."""

    def __init__(self, plan: Plan, log: Callable[[str], None]) -> None:
        self.plan, self.log = plan, log
        self.batches = _batches(plan)
        next(self.batches)  # starts the workers before CUDA is touched
        self.device = torch.device(plan.device)
        self.model = TrainableDecoder(TINY_CHAT, seed=plan.seed).to(self.device)
        if plan.init:
            self.model.load_state_dict(load_state(plan.init))
        self.updates = Updates(self.model, graphs=plan.device == "cuda" and plan.graphs, log=log)
        self.chat = ChatModel(self.model, Tokenizer.from_file(str(plan.out / "tokenizer.json")), max_new=120)
        self.loss_function = learned_loss
        self.backward: Callable[[Batch], Tensor] = self._plain_backward
        if plan.device == "cuda":
            self.model.compile_halves()
            self.loss_function = torch.compile(learned_loss, dynamic=False)
        if plan.device == "cuda" and plan.graphs:
            self.backward = CapturedBackward(self._plain_backward, self.model, log)
        self.checks = _checks(plan.seed + 1, plan.checks)
        self.step = self.tokens = 0
        self.waited_seconds = 0.0

    def _plain_backward(self, batch: Batch) -> Tensor:
        """Adds the batch's share of the gradients; returns its loss, still on the device."""
        cast = torch.autocast("cuda", torch.bfloat16, cache_enabled=False) if batch.tokens.is_cuda else nullcontext()
        with cast:
            hidden = self.model(batch.tokens, batch.row_length)
            loss = self.loss_function(hidden, self.model.output.weight, batch.positions, batch.targets)
            loss = loss / self.plan.batches_per_step
        torch.autograd.backward(loss)
        return loss.detach()

    def _next_batch(self) -> Batch:
        start = time.perf_counter()
        batch = next(self.batches)
        self.waited_seconds += time.perf_counter() - start
        self.tokens += batch.tokens.numel()
        return batch.to(self.device)

    def one_step(self, rate: float) -> Tensor:
        """One update from `batches_per_step` batches; returns the loss, still on the device."""
        total = torch.zeros((), device=self.device)
        for _ in range(self.plan.batches_per_step):
            total += self.backward(self._next_batch())
        self.updates.step(rate)
        self.step += 1
        return total

    def report(self, seconds: float, loss: float) -> dict[str, object]:
        """Quick accuracies, one line of log, and the state on disk."""
        self.model.eval()
        accuracies = _accuracies(self.chat, self.checks)
        self.model.train()
        save_checkpoint(self.model.state_dict(), self.plan.out)
        shown = " ".join(f"{name} {value:.2f}" for name, value in accuracies.items())
        amount = f"{self.tokens / 1e6:7.1f} Mtok (waited {self.waited_seconds:.0f} s)"
        self.log(f"{seconds:6.0f} s  step {self.step:6d}  {amount}  loss {loss:.4f}  {shown}")
        return {"seconds": round(seconds, 1), "step": self.step, "tokens": self.tokens, "loss": loss, **accuracies}


def _print(line: str) -> None:
    print(line, flush=True)  # noqa: T201 (a script's log)


def train(plan: Plan, log: Callable[[str], None] = _print) -> list[dict[str, object]]:
    """Runs the plan; leaves a model folder in plan.out and returns the reports."""
    start = time.perf_counter()
    _ensure_tokenizer(plan)
    run = Run(plan, log)
    parameters = sum(p.numel() for p in run.model.parameters())
    log(f"ready after {time.perf_counter() - start:.0f} s; {parameters:,} parameters")
    reports, next_report, loss = [], plan.report_seconds, torch.zeros(())
    while (progress := plan.progress(run.step, seconds := time.perf_counter() - start)) < 1:
        loss = run.one_step(learning_rate(progress, plan.peak_rate))
        if run.step in (1, 10, 100, 500, 1000):
            log(f"{seconds:6.0f} s  step {run.step}  loss {float(loss):.3f}")
        if seconds > next_report:
            reports.append(run.report(seconds, float(loss)))
            next_report = time.perf_counter() - start + plan.report_seconds
    reports.append(run.report(time.perf_counter() - start, float(loss)))
    (plan.out / "training.json").write_text(json.dumps(reports, indent=1) + "\n", encoding="utf-8")
    return reports


def _ensure_tokenizer(plan: Plan) -> None:
    """The tokenizer of this seed's corpus, unless the folder has one."""
    if not (plan.out / "tokenizer.json").exists():
        made = islice(dialogues(plan.seed), 60_000)
        texts = (
            text
            for dialogue in made
            for m in dialogue
            for text in (m["role"], "" if m["role"] == "system" else m["content"])
        )
        save_tokenizer(train_tokenizer(texts, vocab=TINY_CHAT.vocab), plan.out, max_context=TINY_CHAT.max_context)


def main() -> None:
    """Command line of the trainer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the model (made if missing)")
    parser.add_argument("--minutes", type=float, default=Plan.minutes, help="wall-clock budget in minutes (default 9)")
    parser.add_argument("--steps", type=int, help="number of updates (default: as many as fit)")
    parser.add_argument("--seed", type=int, default=Plan.seed)
    parser.add_argument("--device", default=Plan.device, help="cuda or cpu (default cuda)")
    parser.add_argument("--workers", type=int, default=Plan.workers, help="data processes (default 14)")
    parser.add_argument("--tokens-per-batch", type=int, default=Plan.tokens_per_batch)
    parser.add_argument("--report-seconds", type=float, default=Plan.report_seconds)
    parser.add_argument("--peak-rate", type=float, default=Plan.peak_rate, help="highest learning rate")
    parser.add_argument("--init", type=Path, help="folder of a checkpoint to go on from (default: random weights)")
    parser.add_argument(
        "--checks", type=int, default=Plan.checks, help="dialogues a kind for quick accuracies (default 100)"
    )
    parser.add_argument("--no-graphs", dest="graphs", action="store_false", help="run without CUDA graphs")
    arguments = vars(parser.parse_args())
    train(Plan(**arguments))


if __name__ == "__main__":
    main()
