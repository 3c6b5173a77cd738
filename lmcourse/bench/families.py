"""Family trials: every row of the table as a tiny random model, run by the engine and held against transformers.

    config and tensors as published ──engine──▶ greedy answers, likeliest tokens ─┐
                        └─ transformers (baseline/relabelled.py), float64 ────────┴─▶ as parity.py compares

float64, since two float32 answers differ by the errors of both: tiny Gemma's, whose words come in eight times as large,
is 0.00009 nats off in transformers itself. Two prompts share a batch; one is longer than any window, so prompts,
decodes and company are all in it.

Lesson: 8 (the table, live)
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lmcourse.bench.parity import TOLERANCES, EngineAnswer, Parity, answer_prompts, compare_with_transformers
from lmcourse.bundled import tiny_configs
from lmcourse.config import TurbomindEngineConfig
from lmcourse.errors import LmcourseError
from lmcourse.text.pictures import PicturedIds, PictureReader, Piece

if TYPE_CHECKING:
    from lmcourse.models import Family

__all__ = ["FamilyTrial", "TrialTable", "compare_folders", "run_family", "try_families", "try_family"]

_PROMPT_LENS, _NUM_TOKENS = (53, 7), 6


@dataclass(frozen=True)
class FamilyTrial:
    """How a row did. ok is None where there is nothing to try yet."""

    family: str
    ok: bool | None
    what: str

    def __str__(self) -> str:
        return f"{_SIGNS[self.ok]} {self.family:<20} {self.what}"


_SIGNS = {True: "✓", False: "✗", None: "–"}
_COLOURS = {True: "#d9f2df", False: "#f8d7da", None: "#eeeeee"}


class TrialTable(tuple[FamilyTrial, ...]):
    """Rows that show themselves: a sign for each, and in a notebook a colour too."""

    def __str__(self) -> str:
        return "\n".join(map(str, self))

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        rows = "".join(
            f'<tr style="background:{_COLOURS[trial.ok]};color:#111"><td>{_SIGNS[trial.ok]}</td>'
            f'<td style="text-align:left">{trial.family}</td><td style="text-align:left">{trial.what}</td></tr>'
            for trial in self
        )
        left = 'style="text-align:left"'
        head = f"<tr><th></th><th {left}>family</th><th {left}>as a tiny random model</th></tr>"
        return f"<table>{head}{rows}</table>"


def try_families(names: Sequence[str] | None = None, *, seed: int = 0, dtype: str = "float32") -> TrialTable:
    """All rows, or those named, in the table's order, against transformers; dtype is the engine's."""
    from lmcourse.models import FAMILIES

    chosen = [family for family in FAMILIES if names is None or family.name in names]
    return TrialTable(try_family(family, seed=seed, dtype=dtype) for family in chosen)


def try_family(family: Family, *, seed: int = 0, dtype: str = "float32") -> FamilyTrial:
    """One row against transformers in float64; an error is a row too. In 16 bits, near ties may fall otherwise."""
    return _trial(family, lambda folder: _compare(folder, folder, seed, dtype), seed)


def compare_folders(name: str, folder: Path, reference: Path, *, seed: int = 0) -> FamilyTrial:
    """A row of your own: the engine on one tiny model's folder, transformers on another's, the engine in float32."""
    return FamilyTrial(name, *_compare(folder, reference, seed, "float32"))


def run_family(family: Family, *, seed: int = 0) -> FamilyTrial:
    """One row through the engine alone: what `lmcourse list --check` shows."""

    def run(folder: Path) -> tuple[bool, str]:
        answers = _answer(folder, seed, "auto", see=True)
        return True, f"{sum(len(answer.token_ids) for answer in answers)} tokens generated"

    return _trial(family, run, seed)


def _trial(family: Family, run: Callable[[Path], tuple[bool, str]], seed: int) -> FamilyTrial:
    from lmcourse.models.tiny_models import write_tiny_model

    outcomes: list[tuple[bool, str]] = []
    for name in _kinds(family):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "tiny"
            write_tiny_model(name, folder, seed=seed)
            try:
                outcomes.append(run(folder))
            except LmcourseError as error:
                outcomes.append((False, str(error).splitlines()[0]))
    if not outcomes:
        return FamilyTrial(family.name, None, "no tiny model of it yet")
    return FamilyTrial(family.name, all(ok for ok, _ in outcomes), "; ".join(what for _, what in outcomes))


def _kinds(family: Family) -> list[str]:
    """The tiny models of a row: its name, and others with something in brackets behind it."""
    return [name for name in tiny_configs() if name.partition(" (")[0] == family.name]


def _answer(folder: Path, seed: int, dtype: str, *, see: bool = False) -> list[EngineAnswer]:
    """see: with a picture before each prompt, if the model takes any."""
    from lmcourse.engine import Engine

    draw = random.Random(seed)
    prompts = [[draw.randrange(16, 300) for _ in range(length)] for length in _PROMPT_LENS]
    config = TurbomindEngineConfig(dtype=dtype, max_batch_size=2, session_len=256, cache_max_entry_count=16)
    with Engine.from_folder(folder, config) as engine:
        if see and engine.encoder is not None:
            prompts = [_pictured(engine.encoder, prompt) for prompt in prompts]
        return answer_prompts(engine, prompts, _NUM_TOKENS)


def _pictured(reader: PictureReader, prompt: list[int]) -> list[int]:
    """A grey ramp, and the prompt behind it."""
    from PIL import Image

    picture = reader.prepare(Image.linear_gradient("L"))
    return PicturedIds([reader.placeholder_id] * picture.num_tokens + prompt, [Piece(0, picture)])


def _compare(folder: Path, truth: Path, seed: int, dtype: str) -> tuple[bool, str]:
    from lmcourse.baseline.relabelled import load_reference

    answers = _answer(folder, seed, dtype)
    reference = load_reference(truth).double()
    parity = compare_with_transformers(reference, answers)
    limit = TOLERANCES[dtype]
    chose_well = parity.all_equal if dtype == "float32" else parity.largest_loss < limit
    ok = chose_well and parity.largest_difference < limit
    if ok:
        name = type(reference).__name__
        return True, f"{parity.num_equal} tokens as {name} says, log-probabilities within {limit}"
    return False, f"{parity.num_equal} of {parity.num_tokens} tokens, log-probabilities off by {_short(parity)}"


def _short(parity: Parity) -> str:
    return f"{parity.largest_difference:.2g} nats"
