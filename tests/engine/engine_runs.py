"""The scheduler's random workloads, through a whole Engine with a MirrorDecoder and an oracle that has no engine."""

from __future__ import annotations

import random

import torch
from engine_fakes import MirrorDecoder, make_engine, mirror_next_logits, mirror_spec
from engine_workloads import Outcome, Tally, draw_prompt, draw_workload

from lmcourse.config import GenerationConfig
from lmcourse.engine.sampling import draw_uniforms
from lmcourse.spec import RotarySpec

VOCAB = 50
FLOOR = 16  # the mirror stores each token's rotary length: beyond this, equal tokens are not equal keys


def run_engine_workloads(count: int, first_seed: int) -> Tally:
    """Workloads first_seed, first_seed + 1, …; a failure names its seed."""
    tally = Tally()
    decoder = MirrorDecoder(mirror_spec(VOCAB, rotary=RotarySpec(scaling="dynamic", trained_context=FLOOR)))
    for seed in range(first_seed, first_seed + count):
        try:
            tally.count(EngineRun(decoder, seed).run())
        except Exception as error:
            raise AssertionError(f"workload of seed {seed}: {error}") from error
    return tally


class EngineRun:
    """One workload: requests arrive and are aborted while the engine steps; half of them sample with a seed."""

    def __init__(self, decoder: MirrorDecoder, seed: int) -> None:
        self.rng = random.Random(seed)
        self.workload = draw_workload(self.rng)
        self.engine = make_engine(
            decoder,
            cache_max_entry_count=max(self.workload.num_blocks + 1, 4),
            cache_block_seq_len=self.workload.tokens_per_block,
            max_batch_size=self.workload.max_running,
            max_prefill_token_num=self.workload.budget,
            enable_prefix_caching=self.workload.num_beginnings is not None,
            overlap=self.rng.random() < 0.5,
            graphs=self.rng.random() < 0.5,
        )
        self.num_aborts = 0

    def run(self) -> Outcome:
        engine, coming, alive, told = self.engine, list(self.workload.jobs), {}, {}
        for clock in range(10000):
            while coming and coming[0].arrival <= clock:
                job = coming.pop(0)
                prompt = draw_prompt(self.rng, self.workload.num_beginnings, job.prompt_len, VOCAB)
                seed = self.rng.choice((None, self.rng.randrange(2**64)))
                gen = GenerationConfig(max_new_tokens=job.num_new, random_seed=seed)
                alive[engine.add(prompt, gen)] = (job, prompt, gen)
            for request_id in [key for key, (job, _, _) in alive.items() if job.abort_at == clock]:
                engine.abort(request_id)
                del alive[request_id]
                self.num_aborts += 1
            for output in engine.step():
                told.setdefault(output.request_id, []).extend(output.token_ids)
                if output.finish_reason:
                    self.check_answer(*alive.pop(output.request_id)[1:], told[output.request_id])
            engine.check()
            if not coming and not engine.has_work:
                return self.outcome()
        raise AssertionError("not finished after 10000 steps")

    @staticmethod
    def check_answer(prompt: list[int], gen: GenerationConfig, told: list[int]) -> None:
        assert told == seeded_oracle(prompt, gen, VOCAB)

    def outcome(self) -> Outcome:
        stats = self.engine.stats()
        assert stats.num_free_blocks + stats.num_cached_blocks == stats.num_blocks
        chunked = stats.num_steps if self.workload.budget < 16 else 0
        return Outcome(stats.num_steps, stats.num_preemptions, self.num_aborts, chunked, stats.num_hit_tokens)


def seeded_oracle(prompt: list[int], gen: GenerationConfig, vocab: int) -> list[int]:
    """Token by token without an engine: argmax, or inversion of the distribution at the seed's numbers."""
    outputs: list[int] = []
    while len(outputs) < gen.max_new_tokens:
        logits = torch.from_numpy(mirror_next_logits(prompt, outputs, vocab, FLOOR))
        if gen.random_seed is None:
            outputs.append(int(logits.argmax()))
        else:
            summed = (logits - logits.max()).softmax(-1).cumsum(-1, dtype=torch.float64)
            target = draw_uniforms([gen.random_seed], [len(outputs)])[0] * summed[-1]
            outputs.append(int((summed <= target).sum()))
    return outputs
