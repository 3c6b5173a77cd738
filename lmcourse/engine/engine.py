"""Engine: requests in, tokens out, one step at a time.

The idea: a step is five moves, and each is a file that can be read alone; steps.py has their order.

    schedule ─→ apply ─→ make_batch ─→ run ─→ choose ─→ push, append or finish
    (a Plan)    (blocks)  (a Batch)   (logits) (tokens)  (StepOutputs)

Contract: `add` as often as you like, `step` while `has_work`. Requests never influence each other's tokens. Whatever
interrupts a step, the engine stays consistent: what was computed is dropped and computed again, every request goes on
or can be aborted. An error loses no token; Ctrl-C can lose those that were being handed out at that very moment. One
thread at a time. `close` gives the memory back.

Lesson: 2 (the engine's chat), 3 (continuous batching)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lmcourse.config import GenerationConfig, TurbomindEngineConfig
from lmcourse.engine.answer import Answer, StepOutput
from lmcourse.engine.assembly import assemble
from lmcourse.engine.crew import Crew
from lmcourse.engine.crew_member import gather_crew
from lmcourse.engine.crew_steps import CrewRunner
from lmcourse.engine.events import Event, Reporter
from lmcourse.engine.features import Encoder
from lmcourse.engine.home import Home
from lmcourse.engine.intake import Entry, Intake
from lmcourse.engine.kv_cache import measure_free_bytes
from lmcourse.engine.prefix_cache import NoPrefixCache, PrefixCache
from lmcourse.engine.queues import Queue
from lmcourse.engine.runner import StepRunner, name_weight_format
from lmcourse.engine.sampling import TokenMask
from lmcourse.engine.scheduler import Scheduler
from lmcourse.engine.settings import check_alone, choose_device, choose_dtype
from lmcourse.engine.stats import AccountLoad, EngineStats, count_loads
from lmcourse.engine.steps import Steps
from lmcourse.errors import EngineClosedError, PromptError
from lmcourse.layers import ALONE

if TYPE_CHECKING:
    from lmcourse.models import Decoder
    from lmcourse.text.tokenizer import Tokenizer

__all__ = ["Engine"]


class Engine:
    """Owner of a decoder, its KV cache and all requests."""

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Tokenizer | None,
        config: TurbomindEngineConfig | None = None,
        *,
        encoder: Encoder | None = None,
        crew: Crew | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        """The engine takes all of them over. No tokenizer: answers have no text; no encoder: no pictures; no crew: the
        decoder is the whole model."""
        self._home = Home()  # first, so that nothing is copied before it refuses
        config = config or TurbomindEngineConfig()
        machine = assemble(decoder, config, encoder)
        self.config, self.spec, self.tokenizer = config, decoder.spec, tokenizer
        self._weight_bytes, self.session_len = machine.weight_bytes, machine.session_len
        self.weight_format = name_weight_format(decoder)
        self._scheduler = Scheduler(
            machine.blocks,
            max_running=config.max_batch_size,
            max_tokens_per_step=config.max_prefill_token_num,
            prefixes=PrefixCache(machine.blocks) if config.enable_prefix_caching else NoPrefixCache(),
        )
        self._runner: StepRunner | None = machine.runner if crew is None else CrewRunner(machine.runner, crew)
        self._intake = Intake(self.spec, tokenizer, self.session_len)
        self._entries: dict[int, Entry] = {}  # every request whose end was not handed out yet
        self._unread: dict[int, Answer] = {}  # those that were given a token since the last step handed out
        self._next_id = 0
        self._reporter = Reporter(on_event)
        overlap = decoder.device.type == "cuda" if config.overlap is None else config.overlap
        self._steps = Steps(self._scheduler, self._reporter, overlap=overlap)

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        config: TurbomindEngineConfig | None = None,
        *,
        device: str | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> Engine:
        """Load a model folder (Hugging Face or engine format) with its tokenizer and, where it has one, its encoder.

        device None: CUDA if there is one.
        """
        from lmcourse.models import load_decoder, load_spec
        from lmcourse.text.tokenizer import Tokenizer
        from lmcourse.vision import load_encoder

        config = config or TurbomindEngineConfig()
        path = Path(folder).expanduser()
        place = choose_device(device)
        dtype = choose_dtype(config, load_spec(path).dtype, place)
        tokenizer = Tokenizer.from_folder(path)
        crew = None if config.tp == 1 else gather_crew(path, config, place)
        try:
            if crew is not None:
                place = crew.ranks.device
            how: dict[str, Any] = {"free_bytes": measure_free_bytes(place, weight_bytes=0)}
            how |= {"model_format": config.model_format, "ranks": ALONE if crew is None else crew.ranks}
            decoder = load_decoder(path, dtype=dtype, device=place, **how)
            encoder = load_encoder(path, dtype=dtype, device=decoder.device)
            check_alone(config, sees=encoder is not None)
            return cls(decoder, tokenizer, config, encoder=encoder, crew=crew, on_event=on_event)
        except BaseException as error:
            if crew is not None:
                with closing(crew):
                    crew.explain(error)
            raise

    def add(
        self,
        prompt_ids: Sequence[int],
        gen: GenerationConfig | None = None,
        *,
        stop_ids: frozenset[int] = frozenset(),
        mask: TokenMask | None = None,
        account: str | None = None,
    ) -> int:
        """Queue a prompt and return its request id. `gen.n` is the caller's business: one add, one answer.

        stop_ids are the template's; a mask limits each token; PicturedIds bring pictures along; account: whose it is.
        Raises PromptError for a prompt that is empty, too long or outside the vocabulary, ConfigError for settings that
        this model cannot honour.
        """
        self._require_open()
        entry = self._intake.make_entry(self._next_id, prompt_ids, gen or GenerationConfig(), stop_ids, mask, account)
        self._scheduler.check_fits(entry.request)
        self._reporter.added(entry.request)
        with self._consistent():
            self._next_id += 1
            self._entries[entry.request.request_id] = entry
            self._scheduler.add(entry.request)
        return entry.request.request_id

    @property
    def encoder(self) -> Encoder | None:
        """What makes pictures ready for prompts; None for a model that takes none."""
        features = self._require_open().features
        return None if features is None else features.encoder

    @property
    def embeddings(self) -> torch.Tensor:
        """[vocab, hidden]: what token ids become; features of pictures take the place of such rows."""
        return self._require_open().decoder.embedding.weight

    def step(self) -> list[StepOutput]:
        """Compute one step and hand out what is new, in the order of arrival; [] when there is nothing to do."""
        runner = self._require_open()
        with self._consistent():
            if self._scheduler.has_work:
                self._steps.advance(runner, self._entries, self._unread)
            news = [answer for _, answer in sorted(self._unread.items()) if answer.has_news]
            outputs = [answer.take() for answer in news]
            for answer in news:
                if answer.finish_reason is not None:
                    self._entries.pop(answer.request_id, None)
            self._unread.clear()  # last: an interruption before this leaves the ends of requests to the next step
        return outputs

    def abort(self, request_id: int) -> None:
        """End a request at once; nothing more is handed out for it. One that has ended already is left alone."""
        self._require_open()
        if not 0 <= request_id < self._next_id:
            raise PromptError("there is no such request", expected="an id that add() returned", got=request_id)
        entry = self._entries.get(request_id)
        if entry is None:
            return
        with self._consistent():
            del self._entries[request_id]
            self._unread.pop(request_id, None)
            if entry.answer.finish_reason is None:
                entry.answer.finish_reason = "abort"
                self._reporter.finished(entry.answer)
                self._steps.remove(entry.request)

    def unfinished(self) -> list[int]:
        """Ids of the requests that have not ended, oldest first."""
        return [key for key, entry in self._entries.items() if entry.answer.finish_reason is None]

    def admit_only(self, window: tuple[int, int] | None) -> None:
        """Compute no requests but those from the first to the last of these ids, beginning anew; None: all again."""
        if window != self._scheduler.window:
            self._recover()
            self._scheduler.window = window

    @property
    def has_work(self) -> bool:
        """Whether `step` has anything to compute or to hand out."""
        self._require_open()
        return bool(self._entries)

    def stats(self) -> EngineStats:
        """Present load and sums."""
        runner, blocks = self._require_open(), self._scheduler.blocks
        return EngineStats(
            num_running=len(self._scheduler.running),
            num_waiting=len(self._scheduler.waiting),
            num_blocks=blocks.num_blocks,
            num_free_blocks=blocks.num_free,
            num_cached_blocks=blocks.num_cached,
            tokens_per_block=blocks.tokens_per_block,
            session_len=self.session_len,
            weight_bytes=self._weight_bytes,
            kv_bytes=runner.kv.num_bytes,
            num_steps=self._reporter.num_steps,
            num_computed_tokens=self._steps.num_computed,
            num_sampled_tokens=self._steps.num_sampled,
            num_preemptions=self._steps.num_preemptions,
            num_admitted_tokens=self._scheduler.num_admitted_tokens,
            num_hit_tokens=self._scheduler.num_hit_tokens,
            num_spare_blocks=runner.kv.num_blocks - blocks.num_blocks,
        )

    def line_up(self, queue: Queue) -> None:
        """Have requests wait in this queue from now on; what runs begins anew."""
        self._scheduler.waiting = queue
        self._recover()

    def loads(self) -> dict[str | None, AccountLoad]:
        """What each account has in the engine now; safe to ask from any thread."""
        return count_loads((*self._scheduler.running, *self._scheduler.waiting))

    def check(self) -> None:
        """Raise AssertionError unless requests, queues, blocks and answers agree."""
        self._require_open()
        self._scheduler.check()
        scheduled = sorted(request.request_id for request in self._scheduler.requests())
        assert scheduled == self.unfinished(), f"scheduled requests {scheduled}, unfinished {self.unfinished()}"
        for entry in self._entries.values():
            if entry.answer.finish_reason is None:
                assert entry.answer.token_ids == entry.request.output_ids, f"{entry.request!r} and its answer differ"

    @contextmanager
    def _consistent(self) -> Iterator[None]:
        """Whatever escapes the body, leave no half-done change behind."""
        try:
            yield
        except BaseException as error:
            self._recover()
            self._reporter.interrupted(error)
            raise

    def _recover(self) -> None:
        """Rebuild queues and blocks from the entries; a token that only the answer got is given to the request, too."""
        self._steps.drop()
        if self._runner is not None:
            self._runner.forget()
        for entry in self._entries.values():
            entry.answer.end_if_full()
        alive = [entry for entry in self._entries.values() if entry.answer.finish_reason is None]
        for entry in alive:
            for token_id in entry.answer.token_ids[len(entry.request.output_ids) :]:
                entry.request.append(token_id)
        self._scheduler.restart(entry.request for entry in alive)

    def close(self) -> None:
        """Give the memory back; requests that are still running are dropped. Closing twice is fine."""
        if self._runner is None:
            return
        on_cuda = self._runner.decoder.device.type == "cuda"
        self._runner.close()
        self._runner = None
        self._entries.clear()
        if on_cuda:
            torch.cuda.empty_cache()

    def _require_open(self) -> StepRunner:
        self._home.require()
        if self._runner is None:
            raise EngineClosedError("the engine is closed", next_step="make a new one: run again what made it")
        return self._runner

    def __enter__(self) -> Engine:
        self._require_open()
        return self

    def __exit__(self, *ending: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = self._scheduler if self._runner else "closed"
        return f"Engine({self.spec.family}, session_len={self.session_len}, {state})"
