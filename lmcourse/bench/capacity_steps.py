"""StepTable: how long a step of the engine takes, as measured; between the measured points a straight line. No torch.

A step is decodes and chunks of prompts. Its time is put together from three measured tables:

    decode    [requests × context]    linear in the context between two columns, and between two rows
    prompts   [tokens, as so many prompts]    work per token, and `pair` for each pair of tokens that attend
    mixed     both at once            what a step with both saves against its parts, the median of what was measured

Contract: a table is a value; `seconds` says, too, whether the step lies inside of what was measured. Outside, the last
straight line goes on, and the result is marked.

Lesson: 5 (how many students)
"""

from __future__ import annotations

import json
import statistics
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from lmcourse.errors import CheckpointError, ConfigError

__all__ = ["DecodePoint", "MixedPoint", "PromptPoint", "StepTable", "pick_table", "read_tables"]


class DecodePoint(NamedTuple):
    """A step of `batch` decodes with `context` cached tokens each."""

    batch: int
    context: int
    ms: float


class PromptPoint(NamedTuple):
    """A step of so many whole prompts of `each` tokens."""

    prompts: int
    each: int
    ms: float

    @property
    def tokens(self) -> int:
        return self.prompts * self.each

    @property
    def pairs(self) -> float:
        """Pairs of tokens of which the later attends to the earlier."""
        return self.prompts * self.each**2 / 2


class MixedPoint(NamedTuple):
    """A step of `batch` decodes with `context` tokens each, and of one prompt of `each` tokens."""

    batch: int
    context: int
    each: int
    ms: float


@dataclass(frozen=True)
class StepTable:
    """Measured step times of one model in one setting on one machine, and the engine's limits there."""

    head: Mapping[str, Any]  # model, hardware, versions, date, commit
    decode: tuple[DecodePoint, ...]
    prompts: tuple[PromptPoint, ...]
    mixed: tuple[MixedPoint, ...]
    num_blocks: int
    tokens_per_block: int
    max_running: int
    max_tokens_per_step: int
    overlap: bool

    def __post_init__(self) -> None:
        where = str(self.head.get("model"))
        if len({point.context for point in self.decode}) < 2 or len({point.batch for point in self.decode}) < 2:
            raise ConfigError("a table of decode steps needs two batches and two contexts", where=where)
        if len({point.tokens for point in self.prompts}) < 2:
            raise ConfigError("a table of prompts needs two lengths", where=where)
        points: Sequence[DecodePoint | PromptPoint | MixedPoint] = [*self.decode, *self.prompts, *self.mixed]
        if any(point.ms <= 0 for point in points):
            raise ConfigError("a step takes time", expected="milliseconds above 0", where=where)

    @property
    def name(self) -> str:
        """The model, and its KV cache where that is not as computed."""
        policy = self.head.get("settings", {}).get("quant_policy", 0)
        return f"{self.head['model']}{f', KV int{policy}' if policy else ''}"

    @property
    def place(self) -> str:
        machine = self.head["machine"]
        return machine["gpu"] or f"{machine['cpu']}, {machine['threads']} threads"

    @property
    def kv_tokens(self) -> int:
        """Tokens that the pool holds."""
        return self.num_blocks * self.tokens_per_block

    @cached_property
    def _lines(self) -> tuple[list[int], list[tuple[list[int], list[float]]]]:
        """Batches, and for each its contexts with their milliseconds."""
        batches = sorted({point.batch for point in self.decode})
        rows = []
        for batch in batches:
            points = sorted((point.context, point.ms) for point in self.decode if point.batch == batch)
            if len(points) < 2:
                raise ConfigError("each batch needs two contexts", got=f"batch {batch}: {points}")
            rows.append(([context for context, _ in points], [ms for _, ms in points]))
        return batches, rows

    @cached_property
    def _pair_ms(self) -> float:
        """Milliseconds a pair: what prompts of equal tokens differ by when they are cut differently; 0 if none are."""
        found = [
            (one.ms - other.ms) / (one.pairs - other.pairs)
            for one in self.prompts
            for other in self.prompts
            if one.tokens == other.tokens and one.pairs > other.pairs
        ]
        return max(0.0, statistics.median(found)) if found else 0.0

    @cached_property
    def _prompt_line(self) -> tuple[list[int], list[float]]:
        """Tokens, and milliseconds without what attention takes."""
        by_tokens: dict[int, list[float]] = {}
        for point in self.prompts:
            by_tokens.setdefault(point.tokens, []).append(point.ms - self._pair_ms * point.pairs)
        tokens = sorted(by_tokens)
        return tokens, [statistics.mean(by_tokens[count]) for count in tokens]

    @cached_property
    def saved_ms(self) -> float:
        """What a step with decodes and prompts saves against the two alone."""
        saved = [
            self.decode_ms(point.batch, point.context) + self.prompt_ms([(0, point.each)]) - point.ms
            for point in self.mixed
        ]
        return statistics.median(saved) if saved else 0.0

    def decode_ms(self, batch: float, context: float) -> float:
        """A step of `batch` decodes (an average, perhaps) whose contexts are so long on average."""
        batches, rows = self._lines
        right = min(max(1, bisect_left(batches, batch)), len(batches) - 1)
        low, high = (_on_line(*rows[index], context) for index in (right - 1, right))
        share = (batch - batches[right - 1]) / (batches[right] - batches[right - 1])
        return low + share * (high - low)

    def prompt_ms(self, chunks: Iterable[tuple[int, int]]) -> float:
        """A step of chunks [start, stop) of prompts."""
        tokens, pairs = 0, 0.0
        for start, stop in chunks:
            tokens += stop - start
            pairs += (stop**2 - start**2) / 2
        known, ms = self._prompt_line
        return max(_on_line(known, ms, max(tokens, known[0])), 0.0) + self._pair_ms * pairs

    def seconds(self, contexts: Sequence[int], chunks: Sequence[tuple[int, int]]) -> tuple[float, bool]:
        """Of a step with decodes of these contexts and these chunks of prompts; whether such steps were measured."""
        if not contexts:
            total = self.prompt_ms(chunks)
        else:
            parts = [self.decode_ms(len(contexts), sum(contexts) / len(contexts))]
            if chunks:
                parts.append(self.prompt_ms(chunks))
            total = max(sum(parts) - (self.saved_ms if chunks else 0.0), *parts)
        return total / 1000, self._is_measured(contexts, chunks)

    def _is_measured(self, contexts: Sequence[int], chunks: Sequence[tuple[int, int]]) -> bool:
        batches, rows = self._lines
        if contexts:
            row = rows[min(bisect_left(batches, len(contexts)), len(batches) - 1)][0]
            if len(contexts) > batches[-1] or sum(contexts) > len(contexts) * row[-1]:
                return False
        return sum(stop - start for start, stop in chunks) <= self._prompt_line[0][-1]

    def to_json(self) -> dict[str, Any]:
        limits = ("num_blocks", "tokens_per_block", "max_running", "max_tokens_per_step", "overlap")
        return {
            **self.head,
            **{name: getattr(self, name) for name in limits},
            **{name: [point._asdict() for point in getattr(self, name)] for name in ("decode", "prompts", "mixed")},
        }

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> StepTable:
        """CheckpointError for anything that `to_json` does not write."""
        parts = dict(table)
        try:
            return cls(
                decode=tuple(DecodePoint(**row) for row in parts.pop("decode")),
                prompts=tuple(PromptPoint(**row) for row in parts.pop("prompts")),
                mixed=tuple(MixedPoint(**row) for row in parts.pop("mixed")),
                num_blocks=int(parts.pop("num_blocks")),
                tokens_per_block=int(parts.pop("tokens_per_block")),
                max_running=int(parts.pop("max_running")),
                max_tokens_per_step=int(parts.pop("max_tokens_per_step")),
                overlap=bool(parts.pop("overlap")),
                head=parts,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                "this is no table of step times",
                expected="what `lmcourse bench steps` writes",
                got=f"{type(error).__name__}: {error}",
                where=table.get("model"),
            ) from error


def read_tables(path: Path) -> list[StepTable]:
    """All tables of a file: `tables` is a list of them, or the file is one by itself."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            "the step times cannot be read",
            expected="a JSON file",
            got=error,
            where=path,
            next_step="make one: lmcourse bench steps --out FILE",
        ) from error
    tables = content.get("tables", [content]) if isinstance(content, dict) else None
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise CheckpointError("this is no file of step times", expected='{"tables": [{…}, …]}', where=path)
    return [StepTable.from_json(table) for table in tables]


def pick_table(tables: Sequence[StepTable], model: str | None, quant_policy: int) -> StepTable:
    """The one of this model and KV cache; without a model the first of this cache."""
    for table in tables:
        policy = table.head.get("settings", {}).get("quant_policy", 0)
        if model in (None, table.head.get("model")) and policy == quant_policy:
            return table
    raise ConfigError(
        "these step times were not measured",
        expected=" | ".join(table.name for table in tables),
        got=f"{model or 'any model'}, quant_policy={quant_policy}",
        next_step="measure them: lmcourse bench steps MODEL --out FILE",
    )


def _on_line(places: Sequence[int], values: Sequence[float], place: float) -> float:
    """Between two points, or on the line through the last two."""
    right = min(max(1, bisect_left(places, place)), len(places) - 1)
    share = (place - places[right - 1]) / (places[right] - places[right - 1])
    return values[right - 1] + share * (values[right] - values[right - 1])
