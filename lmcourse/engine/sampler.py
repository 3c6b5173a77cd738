"""Sampler: logits of a step in, one token per row out, for all requests at once.

The idea: every rule of GenerationConfig is one masked operation over the whole [rows, vocab] table, and rows that do
not use a rule have its neutral value. If every row is greedy and unedited, all of it is a single argmax.

    raw ─┬─ log-softmax ────────────────────────────────────────────────── logprobs reported
         └─ repetition penalty ─ bans, masks ─┬─ argmax ───────────────── greedy rows
                                              └─ / temperature ─ top-k ─ top-p ─ min-p ─ draw   other rows

Filters keep ties: a token as likely as the last one kept is kept too, so the outcome never depends on how a sort
breaks ties.

Lesson: 2 (passing generation parameters)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lmcourse.engine.request import Request
from lmcourse.engine.sampling import SamplingRule, draw_uniforms
from lmcourse.errors import RequestFailedError

__all__ = ["Sampled", "keep_min_p", "keep_top_k", "keep_top_p", "sample"]


@dataclass(frozen=True)
class Sampled:
    """The next token of one request; logprobs by token id, best first, if it asked for them."""

    token_id: int
    logprobs: dict[int, float] | None = None


@torch.inference_mode()
def sample(logits: Tensor, requests: Sequence[Request], rules: Sequence[SamplingRule]) -> list[Sampled]:
    """One token per row of float32 [rows, vocab] logits, overwritten on the way; RequestFailedError if one fails."""
    best, token_ids = logits.max(dim=-1)
    _check_finite(best, requests)
    asked = [row for row, rule in enumerate(rules) if rule.num_logprobs is not None]
    logprobs = logits[asked].log_softmax(dim=-1) if asked else None
    if _edit(logits, requests, rules):
        token_ids = logits.argmax(dim=-1)
    drawn = [row for row, rule in enumerate(rules) if rule.temperature > 0]
    if drawn:
        token_ids[drawn] = _draw(logits[drawn], [requests[row] for row in drawn], [rules[row] for row in drawn])
    chosen: list[int] = token_ids.tolist()
    if logprobs is None:
        return [Sampled(token_id) for token_id in chosen]
    counts = [rules[row].num_logprobs or 0 for row in asked]
    reports = dict(zip(asked, _report_logprobs(logprobs, counts, [chosen[row] for row in asked]), strict=True))
    return [Sampled(token_id, reports.get(row)) for row, token_id in enumerate(chosen)]


def _check_finite(best: Tensor, requests: Sequence[Request]) -> None:
    """max() propagates NaN, so one number per row tells; a row of -inf alone counts as not finite too."""
    finite = best.isfinite()
    if not finite.all():
        ids = [request.request_id for request, good in zip(requests, finite.tolist(), strict=True) if not good]
        raise RequestFailedError(
            "the model's logits are not finite",
            request_ids=tuple(ids),
            expected="numbers",
            got="NaN or infinity",
            next_step="abort the request; if it happens on every prompt, check the weights or use dtype='float32'",
        )


def _edit(logits: Tensor, requests: Sequence[Request], rules: Sequence[SamplingRule]) -> bool:
    """Apply repetition penalties, bans and masks in place; whether there were any."""
    penalised = [row for row, rule in enumerate(rules) if rule.repetition_penalty != 1]
    if penalised:
        cells = _cells(logits, penalised, [list(requests[row].distinct_ids) for row in penalised])
        factor = logits.new_tensor([_representable(rule.repetition_penalty) for rule in rules])[cells[0]]
        seen = logits[cells]
        logits[cells] = torch.where(seen > 0, seen / factor, seen * factor).nan_to_num()
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
    return bool(penalised or bans or masked)


def _apply_mask(logits: Tensor, request: Request, rule: SamplingRule) -> None:
    """Set what the mask forbids to -inf; a mask that fails, or leaves no token that may come, fails its request."""
    assert rule.mask is not None
    try:
        allowed = torch.from_numpy(rule.mask.allowed(request.output_ids)).to(logits.device)
        logits.masked_fill_(~allowed, -torch.inf)
    except Exception as error:
        raise RequestFailedError(
            "the mask of allowed tokens failed",
            request_ids=(request.request_id,),
            got=f"{type(error).__name__}: {error}",
        ) from error
    if not logits.amax() > -torch.inf:
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


def _report_logprobs(logprobs: Tensor, counts: Sequence[int], chosen: Sequence[int]) -> list[dict[int, float]]:
    """Per row: its counts[row] best tokens, best first, and the chosen one."""
    best = logprobs.topk(min(max(counts), logprobs.shape[-1]), dim=-1)
    of_chosen = logprobs.gather(-1, torch.tensor(chosen, device=logprobs.device)[:, None])[:, 0].tolist()
    reports = []
    rows = zip(best.indices.tolist(), best.values.tolist(), counts, chosen, of_chosen, strict=True)
    for ids, values, count, token_id, value in rows:
        report = dict(zip(ids[:count], values[:count], strict=True))
        report.setdefault(token_id, value)
        reports.append(report)
    return reports
