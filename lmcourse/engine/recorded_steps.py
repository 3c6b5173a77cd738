"""RecordedSteps: a step as at most two graphs, its decodes and its prompts, and the sampling of both.

The idea: what can be recorded has a fixed size, and a mixed step has any. Its decodes alone come in few sizes, and so
do short prompts alone. Two replays read the weights twice, which costs less than the launches of one eager step.

    plan   decodes of one token that sample   → decode_steps.py   rows of `sampled` from 0
           all other chunks, if they are few  → prompt_steps.py   rows of `sampled` behind those

Lesson: 3 (one graph instead of 150 launches)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lmcourse.engine.decode_rows import DecodeRows
from lmcourse.engine.decode_steps import DecodeSteps, Ending, choose_ending
from lmcourse.engine.graphs import Recorder
from lmcourse.engine.intake import Entry
from lmcourse.engine.kv_cache import KVCache
from lmcourse.engine.launch import Fetch, Launch
from lmcourse.engine.prompt_steps import MOST_PROMPTS, PromptSteps
from lmcourse.engine.request import Request
from lmcourse.engine.sampler import Choice, choose
from lmcourse.engine.sampling import SamplingRule
from lmcourse.engine.scheduler import Chunk, Plan
from lmcourse.models import Decoder

__all__ = ["RecordedSteps"]


@dataclass(frozen=True)
class _Parts:
    """A plan's chunks by how they are run; prompts that sample come before those that do not."""

    decodes: list[Chunk]
    prompts: list[Chunk]

    @property
    def sampling(self) -> list[Chunk]:
        return self.decodes + [chunk for chunk in self.prompts if chunk.samples]


class RecordedSteps:
    """Owner of the tensors that recorded steps work on."""

    def __init__(self, decoder: Decoder, kv: KVCache, recorder: Recorder, *, most_rows: int, session_len: int) -> None:
        """most_rows: requests that one step may sample for. The cache's last block is to spare."""
        self.decoder = decoder
        columns = -(-session_len // kv.tokens_per_block)
        self._rows = DecodeRows(most_rows, columns, spare_block=kv.num_blocks - 1, device=decoder.device)
        self._first_prompt = self._rows.sizes[-1]
        self.sampled = torch.zeros(self._first_prompt + MOST_PROMPTS, dtype=torch.int64, device=decoder.device)
        self._decodes = DecodeSteps(decoder, kv, self.sampled, self._rows, recorder, kv.tokens_per_block)
        self._requests: tuple[Request, ...] = ()  # of the last step, with what follows from them
        self._rules: list[SamplingRule] = []
        self._ending = Ending(samples=False)
        prompt_rows = self.sampled[self._first_prompt :]
        self._prompts = PromptSteps(decoder, kv, prompt_rows, recorder, -(-columns // 4) * 4)

    def forget(self) -> None:
        """Requests were moved by other steps than these."""
        self._rows.forget()

    def split(self, plan: Plan) -> _Parts | None:
        """The plan in two parts, or None if it is one for a step that is launched kernel by kernel."""
        decodes: list[Chunk] = []
        prompts: list[Chunk] = []
        for chunk in plan.chunks:
            (decodes if chunk.samples and chunk.stop - chunk.start == 1 else prompts).append(chunk)
        prompts.sort(key=lambda chunk: not chunk.samples)
        return _Parts(decodes, prompts) if self._prompts.fits(prompts) else None

    def launch(
        self, parts: _Parts, entries: Mapping[int, Entry], pending: Mapping[int, int], *, mark: Callable[[], None]
    ) -> Launch:
        """As ModelRunner.launch."""
        requests = tuple(chunk.request for chunk in parts.sampling)
        if requests != self._requests:  # as good as never from one decode step to the next
            self._rules = [entries[request.request_id].sampling for request in requests]
            self._ending = choose_ending(self._rules)
            self._requests = requests  # last, so that an interruption leaves nothing wrong
        rules, ending = self._rules, self._ending
        if ending.draws and len(rules) > len(parts.decodes):
            ending = Ending(samples=False)  # prompts end with argmax or nothing
        mark()
        hidden: list[Tensor] = []
        if parts.decodes:
            of_decodes = self._decodes.run(parts.decodes, entries, pending, ending)
            hidden.append(of_decodes.clone() if parts.prompts else of_decodes)  # recordings share their memory
        else:
            self.forget()
        if parts.prompts:
            hidden.append(self._prompts.run(parts.prompts, greedy=ending.samples))
        mark()
        count, first = len(parts.decodes), self._first_prompt
        decoded, prompted = self.sampled[:count], self.sampled[first : first + len(requests) - count]
        if ending.samples:
            choice = Choice(_join([decoded, prompted]))
        else:
            choice = choose(self.decoder.logits(_join(hidden)), requests, rules)
            decoded[:], prompted[:] = choice.token_ids[:count], choice.token_ids[count:]
        rows = self._rows.row_of
        if len(requests) > count:
            rows = {**rows, **{request.request_id: first + i for i, request in enumerate(requests[count:])}}
        return Launch(requests, rows, choice, Fetch(choice.tensors))


def _join(pieces: list[Tensor]) -> Tensor:
    """End to end; the only piece that is not empty is not copied."""
    filled = [piece for piece in pieces if len(piece)] or pieces[:1]
    return filled[0] if len(filled) == 1 else torch.cat(filled)
