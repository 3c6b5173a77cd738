"""Sampler: logits of a step in, one token per row out, for all requests at once, without a word to the host.

The idea: every rule of GenerationConfig is one masked operation over the whole [rows, vocab] table, and rows that do
not use a rule have its neutral value. If every row is greedy and unedited, all of it is a single argmax.

    raw ─┬─ log-softmax ────────────────────────────────────────────────── logprobs reported
         └─ penalties, biases ─ bans, masks ─┬─ argmax ───────────────── greedy rows
                                             └─ / temperature ─ top-k ─ top-p ─ min-p ─ draw   other rows

Filters keep ties: a token as likely as the last one kept is kept too, so the outcome never depends on how a sort
breaks ties.

Contract: `choose` leaves a Choice on the device, which the next step can be fed from; `Choice.read` is for the host,
once the tensors are there. `sample` is both at once.

Lesson: 2 (passing generation parameters)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmcourse.engine.request import Request
from lmcourse.engine.sampling import SamplingRule, draw_uniforms
from lmcourse.errors import RequestFailedError

__all__ = [
    "Choice",
    "Sampled",
    "allowed_tokens",
    "choose",
    "keep_min_p",
    "keep_top_k",
    "keep_top_p",
    "require_finite",
    "sample",
]

_NOT_FINITE = -1


class Sampled(NamedTuple):
    """The next token of one request; logprobs by token id, best first, if it asked for them."""

    token_id: int
    logprobs: dict[int, float] | None = None


@dataclass(frozen=True)
class Choice:
    """A step's samples: `tensors` on the device, and what it takes to read them."""

    token_ids: Tensor  # int64 [rows]; negative where the logits are not finite
    reports: tuple[Tensor, ...] = ()  # of the rows that asked for logprobs: ids and values of the best, the chosen's
    counts: dict[int, int] = field(default_factory=dict)  # by row: how many logprobs it asked for

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What `read` needs on the host."""
        return (self.token_ids, *self.reports)

    def read(self, tensors: Sequence[Tensor]) -> list[Sampled | None]:
        """`tensors`, copied to the host, as one entry per row; None where the logits are not finite."""
        chosen: list[int] = tensors[0].tolist()
        if not self.counts:
            return [Sampled(token_id) if token_id >= 0 else None for token_id in chosen]
        told = _read_reports(tensors[1:], self.counts, chosen)
        return [Sampled(token_id, told.get(row)) if token_id >= 0 else None for row, token_id in enumerate(chosen)]


def sample(logits: Tensor, requests: Sequence[Request], rules: Sequence[SamplingRule]) -> list[Sampled]:
    """`choose` and `Choice.read`; RequestFailedError if any row is not finite."""
    choice = choose(logits, requests, rules)
    sampled = choice.read([tensor.cpu() for tensor in choice.tensors])
    return require_finite(sampled, requests)


def require_finite(sampled: Sequence[Sampled | None], requests: Sequence[Request]) -> list[Sampled]:
    """The same, or a RequestFailedError that names the requests that have no token."""
    failed = [request.request_id for request, token in zip(requests, sampled, strict=True) if token is None]
    if failed:
        raise RequestFailedError(
            "the model's logits are not finite",
            request_ids=tuple(failed),
            expected="numbers",
            got="NaN or infinity",
            next_step="abort the request; if it happens on every prompt, check the weights or use dtype='float32'",
        )
    return [token for token in sampled if token is not None]


@torch.inference_mode()
def choose(logits: Tensor, requests: Sequence[Request], rules: Sequence[SamplingRule]) -> Choice:
    """One token per row of float32 [rows, vocab] logits, which are overwritten on the way."""
    best, token_ids = logits.max(dim=-1)
    finite = best.isfinite()  # max() propagates NaN, so one number per row tells; a row of -inf alone is not, either
    asked = [row for row, rule in enumerate(rules) if rule.num_logprobs is not None]
    logprobs = logits[asked].log_softmax(dim=-1) if asked else None
    if _edit(logits, requests, rules):
        token_ids = logits.argmax(dim=-1)
    drawn = [row for row, rule in enumerate(rules) if rule.temperature > 0]
    if drawn:
        token_ids[drawn] = _draw(logits[drawn], [requests[row] for row in drawn], [rules[row] for row in drawn])
    chosen = token_ids.where(finite, _NOT_FINITE)
    if logprobs is None:
        return Choice(chosen)
    counts = {row: rules[row].num_logprobs or 0 for row in asked}
    best_of = logprobs.topk(min(max(counts.values()), logprobs.shape[-1]), dim=-1)
    of_chosen = logprobs.gather(-1, chosen[asked].clamp(min=0)[:, None])[:, 0]
    return Choice(chosen, (best_of.indices, best_of.values, of_chosen), counts)


def _edit(logits: Tensor, requests: Sequence[Request], rules: Sequence[SamplingRule]) -> bool:
    """Apply penalties, biases, bans and masks in place; whether there were any."""
    penalised = [row for row, rule in enumerate(rules) if rule.repetition_penalty != 1]
    if penalised:
        cells = _cells(logits, penalised, [list(requests[row].distinct_ids) for row in penalised])
        factor = logits.new_tensor([_representable(rule.repetition_penalty) for rule in rules])[cells[0]]
        seen = logits[cells]
        logits[cells] = torch.where(seen > 0, seen / factor, seen * factor).nan_to_num()
    shifted = [row for row, rule in enumerate(rules) if rule.counts_outputs or rule.biased_ids]
    if shifted:
        _shift(logits, shifted, [_shifts(requests[row], rules[row]) for row in shifted])
    bans = [
        (row, (*rule.banned_ids, *(rule.early_ids if request.num_outputs < rule.min_new_tokens else ())))
        for row, (request, rule) in enumerate(zip(requests, rules, strict=True))
        if rule.banned_ids or rule.early_ids
    ]
    if bans:
        logits[_cells(logits, [row for row, _ in bans], [ids for _, ids in bans])] = -torch.inf
    masked = [row for row, rule in enumerate(rules) if rule.mask is not None]
    for row in masked:
        _apply_mask(logits[row], requests[row], rules[row])
    return bool(penalised or shifted or bans or masked)


def _shifts(request: Request, rule: SamplingRule) -> dict[int, float]:
    """What is added to which token's logit: its bias - frequency_penalty · count - presence_penalty · [count > 0]."""
    shifts = dict(zip(rule.biased_ids, rule.biases, strict=True))
    if rule.counts_outputs:
        for token_id, count in Counter(request.output_ids).items():
            taken = rule.frequency_penalty * count + rule.presence_penalty
            shifts[token_id] = shifts.get(token_id, 0.0) - taken
    return shifts


def _shift(logits: Tensor, rows: Sequence[int], shifts: Sequence[dict[int, float]]) -> None:
    amounts = [amount for of_row in shifts for amount in of_row.values()]
    logits[_cells(logits, rows, [list(of_row) for of_row in shifts])] += logits.new_tensor(amounts)


def allowed_tokens(request: Request, rule: SamplingRule) -> NDArray[np.bool_]:
    """What the request's mask lets come next, [vocab]; a mask that fails is its request's RequestFailedError."""
    assert rule.mask is not None
    try:
        return rule.mask.allowed(request.output_ids)
    except Exception as error:
        raise RequestFailedError(
            "the mask of allowed tokens failed",
            request_ids=(request.request_id,),
            got=f"{type(error).__name__}: {error}",
        ) from error


def _apply_mask(logits: Tensor, request: Request, rule: SamplingRule) -> None:
    """Set what the mask forbids to -inf; a mask of another size, or that leaves no token, fails its request."""
    allowed = torch.from_numpy(allowed_tokens(request, rule)).to(logits.device)
    if allowed.shape != logits.shape:
        raise RequestFailedError(
            "the mask of allowed tokens failed",
            request_ids=(request.request_id,),
            expected=f"{logits.shape[0]} tokens",
            got=f"{list(allowed.shape)}",
        )
    logits.masked_fill_(~allowed, -torch.inf)
    if logits.amax() == -torch.inf:
        raise RequestFailedError(
            "no token may come next",
            request_ids=(request.request_id,),
            expected="a mask and bans that leave at least one token",
            next_step="loosen the grammar, or drop bad_words and min_new_tokens",
        )


def _cells(logits: Tensor, rows: Sequence[int], ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Index pair that addresses ids[i] in rows[i] for all i at once."""
    row_index = np.repeat(np.array(rows, dtype=np.int64), [len(of_row) for of_row in ids])
    columns = np.concatenate([np.array(of_row, dtype=np.int64) for of_row in ids])
    return torch.from_numpy(row_index).to(logits.device), torch.from_numpy(columns).to(logits.device)


def _draw(logits: Tensor, requests: Sequence[Request], rules: Sequence[SamplingRule]) -> Tensor:
    """Filter, then invert the cumulative distribution at one uniform number per row."""
    logits = logits - logits.amax(dim=-1, keepdim=True)  # so that the best stays 0 at any temperature
    logits /= logits.new_tensor([[_representable(rule.temperature)] for rule in rules])
    if any(rule.top_k for rule in rules):
        logits = keep_top_k(logits, [rule.top_k for rule in rules])
    probs = logits.softmax(dim=-1)
    if any(rule.top_p < 1 for rule in rules):
        mass = probs.new_tensor([[rule.top_p] for rule in rules], dtype=torch.float64)
        probs = keep_top_p(probs, mass, most=max(rule.top_k or probs.shape[-1] for rule in rules))
    if any(rule.min_p for rule in rules):
        probs = keep_min_p(probs, probs.new_tensor([[rule.min_p] for rule in rules]))
    uniforms = draw_uniforms([rule.seed for rule in rules], [request.num_outputs for request in requests])
    summed = probs.cumsum(dim=-1, dtype=torch.float64)
    target = torch.from_numpy(uniforms).to(logits.device)[:, None] * summed[:, -1:]
    return torch.searchsorted(summed, target, right=True)[:, 0]


def _representable(number: float) -> float:
    """Keep extreme divisors inside float32, where they would turn into 0 or infinity and 0/0 into NaN."""
    return min(max(number, 1e-30), 1e30)


def keep_top_k(logits: Tensor, counts: Sequence[int]) -> Tensor:
    """Set everything below each row's counts[row]-th largest logit to -inf; count 0 keeps all."""
    vocab = logits.shape[-1]
    clipped = torch.tensor([min(count or vocab, vocab) for count in counts], device=logits.device)
    largest = logits.topk(min(max(counts), vocab), dim=-1).values
    limit = largest.gather(-1, clipped.clamp(max=largest.shape[-1])[:, None] - 1)
    limit[clipped == vocab] = -torch.inf
    return logits.masked_fill(logits < limit, -torch.inf)


def keep_top_p(probs: Tensor, mass: Tensor, *, most: int) -> Tensor:
    """Zero all but the fewest likeliest tokens whose probabilities reach mass[row, 0] of the row's sum.

    Only the `most` likeliest are put in order: what top-k left, since a whole vocabulary takes 10 times as long.
    """
    ordered = probs.topk(min(most, probs.shape[-1]), dim=-1).values
    before = ordered.cumsum(dim=-1, dtype=torch.float64) - ordered
    enough = before >= mass * probs.sum(dim=-1, keepdim=True, dtype=torch.float64)
    limit = ordered.masked_fill(enough, torch.inf).amin(dim=-1, keepdim=True)
    return probs.masked_fill((probs < limit) & (mass < 1), 0)


def keep_min_p(probs: Tensor, fraction: Tensor) -> Tensor:
    """Zero tokens less than fraction[row, 0] as likely as the row's likeliest."""
    return probs.masked_fill(probs < fraction * probs.amax(dim=-1, keepdim=True), 0)


def _read_reports(
    reports: Sequence[Tensor], counts: dict[int, int], chosen: Sequence[int]
) -> dict[int, dict[int, float]]:
    """Per row that asked: its counts[row] best tokens, best first, and the chosen one."""
    told = {}
    for row, ids, values, of_chosen in zip(counts, *(tensor.tolist() for tensor in reports), strict=True):
        told[row] = dict(zip(ids[: counts[row]], values[: counts[row]], strict=True))
        told[row].setdefault(chosen[row], of_chosen)
    return told
