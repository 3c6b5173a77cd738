"""Trains tiny-llava from nothing: eye, projector and language model at once, on pictures drawn as they are seen.

    python -m lmcourse.zoo.train_llava --out OUT --minutes 7                                              on a GPU
    python -m lmcourse.zoo.train_llava --out OUT --steps 50 --device cpu --workers 0 --tokens-per-batch 3072   a try

The same objective, updates, captured steps and schedule as tiny-chat's trainer; each batch of conversations is used
with `views` drawings of its scenes. The state is written at every report and in the end, always within the budget.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import DataLoader

from lmcourse.zoo.captured import CapturedBackward
from lmcourse.zoo.objective import learned_loss, learning_rate
from lmcourse.zoo.pictures.batches import PictureBatch, PictureStream, ShownBatch
from lmcourse.zoo.pictures.captions import attributes, caption, claims
from lmcourse.zoo.pictures.conversation import IMAGE, conversation
from lmcourse.zoo.pictures.draw import draw, encode_scenes
from lmcourse.zoo.pictures.files import load_llava, save_llava, save_processor
from lmcourse.zoo.pictures.model import SeeingModel, TrainableLlava
from lmcourse.zoo.pictures.scene import Scene, scene
from lmcourse.zoo.pictures.sizes import LANGUAGE
from lmcourse.zoo.tokenizer import train_tokenizer
from lmcourse.zoo.updates import Updates

__all__ = ["Plan", "main", "train"]


@dataclass(frozen=True)
class Plan:
    """One training run; ends at `minutes` or `steps`, whichever comes first."""

    out: Path
    minutes: float = 7.0
    steps: int | None = None
    seed: int = 20261122
    device: str = "cuda"
    workers: int = 14
    tokens_per_batch: int = 49152
    views: int = 2
    peak_rate: float = 2.5e-3
    report_seconds: float = 60.0
    checks: int = 256
    graphs: bool = True
    init: Path | None = None

    def progress(self, step: int, seconds: float) -> float:
        """How much of the run is over, 0 to 1: by steps where they are given, so that the run can be repeated."""
        by_time = seconds / (self.minutes * 60)
        return by_time if self.steps is None or by_time >= 1 else step / self.steps


def _batches(plan: Plan) -> Iterator[PictureBatch]:
    stream = PictureStream(plan.out / "tokenizer.json", seed=plan.seed, tokens_per_batch=plan.tokens_per_batch)
    loader = DataLoader(
        stream,
        batch_size=None,
        num_workers=plan.workers,
        pin_memory=plan.device == "cuda",
        prefetch_factor=6 if plan.workers else None,
        persistent_workers=plan.workers > 0,
    )
    return iter(loader)


class _Run:
    """The state of one training run and its log."""

    def __init__(self, plan: Plan, log: Callable[[str], None]) -> None:
        self.plan, self.log = plan, log
        self.batches = _batches(plan)
        next(self.batches)  # starts the workers before CUDA is touched
        self.device = torch.device(plan.device)
        self.model = TrainableLlava(seed=plan.seed).to(self.device)
        if plan.init:
            self.model.load_state_dict(load_llava(plan.init, list(self.model.state_dict())))
        self.updates = Updates(self.model, graphs=plan.device == "cuda" and plan.graphs, log=log)
        self.lot = torch.Generator(self.device).manual_seed(plan.seed + 2)
        self.ask = SeeingModel(self.model, Tokenizer.from_file(str(plan.out / "tokenizer.json")))
        self.loss_function = learned_loss
        self.backward: Callable[[ShownBatch], Tensor] = self._plain_backward
        if plan.device == "cuda":
            self.model.compile_halves()
            self.loss_function = torch.compile(learned_loss, dynamic=False)
        if plan.device == "cuda" and plan.graphs:
            self.backward = CapturedBackward(self._plain_backward, self.model, log)
        self.checks = _checks(plan)
        self.step = self.pictures = 0
        self.waited_seconds = 0.0

    def _plain_backward(self, batch: ShownBatch) -> Tensor:
        """Adds the batch's share of the gradients; returns its loss, still on the device."""
        cast = torch.autocast("cuda", torch.bfloat16, cache_enabled=False) if batch.tokens.is_cuda else nullcontext()
        with cast:
            hidden = self.model(batch.tokens, batch.row_length, batch.pixels, batch.slots)
            loss = self.loss_function(hidden, self.model.language.output.weight, batch.positions, batch.targets)
            loss = loss / self.plan.views
        torch.autograd.backward(loss)
        return loss.detach()

    def _next_batch(self) -> PictureBatch:
        start = time.perf_counter()
        batch = next(self.batches)
        self.waited_seconds += time.perf_counter() - start
        return batch.to(self.device)

    def one_step(self, rate: float) -> Tensor:
        """One update from `views` drawings of a batch; returns the loss, still on the device."""
        total = torch.zeros((), device=self.device)
        batch = self._next_batch()
        for _ in range(self.plan.views):
            total += self.backward(batch.shown(draw(batch.codes, batch.backgrounds, self.lot)))
            self.pictures += batch.codes.shape[0]
        self.updates.step(rate)
        self.step += 1
        return total

    def report(self, seconds: float, loss: float) -> dict[str, object]:
        """Quick accuracy of fresh descriptions, one line of log, and the state on disk."""
        save_llava(self.model.state_dict(), self.plan.out)
        self.model.eval()
        described = _described(self.ask, self.checks, self.device)
        self.model.train()
        amount = f"{self.pictures / 1e6:6.2f} M pictures (waited {self.waited_seconds:.0f} s)"
        self.log(f"{seconds:6.0f} s  step {self.step:6d}  {amount}  loss {loss:.4f}  attributes {described:.3f}")
        return {
            "seconds": round(seconds, 1),
            "step": self.step,
            "pictures": self.pictures,
            "loss": loss,
            "attributes": round(described, 4),
        }


def _checks(plan: Plan) -> list[Scene]:
    rng = Random(plan.seed + 1)
    return [scene(rng) for _ in range(plan.checks)]


@torch.inference_mode()
def _described(ask: SeeingModel, scenes: list[Scene], device: torch.device) -> float:
    """Share of the attributes of fresh training scenes that descriptions get right, half of them in Chinese."""
    lot = torch.Generator(device).manual_seed(len(scenes))
    codes, backgrounds = encode_scenes(scenes)
    pixels = draw(codes.to(device), backgrounds.to(device), lot)
    languages = [bool(index % 2) for index in range(len(scenes))]
    requests = [("describe this image", "描述这张图片")[chinese] for chinese in languages]
    answers = ask([f"<s>USER: {IMAGE}\n{request} ASSISTANT:" for request in requests], pixels)
    right = total = 0
    for shown, answer, chinese in zip(scenes, answers, languages, strict=True):
        expected = attributes(shown, chinese=chinese)
        if expected:
            got = claims(answer, chinese=chinese)
            right, total = right + len(set(expected) & set(got)), total + max(len(expected), len(got))
        else:
            right, total = right + (answer == caption(shown, chinese=chinese)), total + 1
    return right / total


def _print(line: str) -> None:
    print(line, flush=True)  # noqa: T201 (a script's log)


def train(plan: Plan, log: Callable[[str], None] = _print) -> list[dict[str, object]]:
    """Runs the plan; leaves a model folder in plan.out and returns the reports."""
    start = time.perf_counter()
    _ensure_tokenizer(plan)
    run = _Run(plan, log)
    parameters = sum(p.numel() for p in run.model.parameters())
    log(f"ready after {time.perf_counter() - start:.0f} s; {parameters:,} parameters")
    reports, next_report, loss = [], plan.report_seconds, torch.zeros(())
    while (progress := plan.progress(run.step, seconds := time.perf_counter() - start)) < 1:
        # Compiling takes longer than the schedule's warm-up: the first updates are small whenever they come.
        loss = run.one_step(learning_rate(progress, plan.peak_rate) * min(1.0, (run.step + 1) / 200))
        if run.step in (1, 10, 100, 300, 1000, 3000):
            log(f"{seconds:6.0f} s  step {run.step}  loss {float(loss):.3f}")
        if run.step % 20 == 0:
            float(loss)  # the host never runs further ahead of the device than this
        if seconds > next_report:
            reports.append(run.report(seconds, float(loss)))
            next_report = time.perf_counter() - start + plan.report_seconds
    reports.append(run.report(time.perf_counter() - start, float(loss)))
    (plan.out / "training.json").write_text(json.dumps(reports, indent=1) + "\n", encoding="utf-8")
    return reports


def _ensure_tokenizer(plan: Plan) -> None:
    """The tokenizer of this seed's conversations, unless the folder has one."""
    if (plan.out / "tokenizer.json").exists():
        return
    rng = Random(plan.seed)
    made = (conversation(rng, turns=5, pictures=index % 4 and 1) for index in range(12_000))
    turns = ((f"USER: {turn.question} ASSISTANT:", turn.answer) for chat in made for turn in chat.turns)
    texts = (text.replace(IMAGE, "") for turn in turns for text in turn)
    save_processor(train_tokenizer(texts, vocab=LANGUAGE.vocab, last_tokens=(IMAGE,)), plan.out)


def main() -> None:
    """Command line of the trainer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the model (made if missing)")
    parser.add_argument("--minutes", type=float, default=Plan.minutes, help="wall-clock budget in minutes (default 7)")
    parser.add_argument("--steps", type=int, help="number of updates (default: as many as fit)")
    parser.add_argument("--seed", type=int, default=Plan.seed)
    parser.add_argument("--device", default=Plan.device, help="cuda or cpu (default cuda)")
    parser.add_argument("--workers", type=int, default=Plan.workers, help="data processes (default 14)")
    parser.add_argument("--tokens-per-batch", type=int, default=Plan.tokens_per_batch)
    parser.add_argument("--views", type=int, default=Plan.views, help="drawings of each batch (default 2)")
    parser.add_argument("--report-seconds", type=float, default=Plan.report_seconds)
    parser.add_argument("--peak-rate", type=float, default=Plan.peak_rate, help="highest learning rate")
    parser.add_argument("--init", type=Path, help="folder of a checkpoint to go on from (default: random weights)")
    parser.add_argument("--checks", type=int, default=Plan.checks, help="scenes for quick accuracies (default 256)")
    parser.add_argument("--no-graphs", dest="graphs", action="store_false", help="run without CUDA graphs")
    train(Plan(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
