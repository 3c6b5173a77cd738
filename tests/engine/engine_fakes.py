"""A decoder whose every output depends on what the KV cache holds, a byte-level tokenizer, and engines made of them."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from lmcourse.config import GenerationConfig, TurbomindEngineConfig
from lmcourse.engine import Engine, StepOutput, assembly
from lmcourse.kernels import LayerKV, RaggedBatch
from lmcourse.layers import ALONE
from lmcourse.models import Decoder
from lmcourse.spec import ModelSpec, RotarySpec
from lmcourse.text.tokenizer import Tokenizer

NUM_LAYERS = 2
NEAR_TIE = 2e-4  # of logits: each way of summing them in float32 is within half of it


def mirror_spec(vocab: int = 50, max_context: int = 256, **changes: object) -> ModelSpec:
    """Rotary lengths, which a mirror stores, are part of what keys depend on: as under dynamic scaling from 1 on."""
    sizes = dict(hidden=1, num_layers=NUM_LAYERS, num_heads=1, num_kv_heads=1, head_dim=2, intermediate=1, eos_ids=())
    sizes["rotary"] = RotarySpec(scaling="dynamic", trained_context=1)
    return ModelSpec(family="mirror", vocab=vocab, max_context=max_context, **{**sizes, **changes})


class MirrorDecoder(nn.Module):
    """Stores (id, position, rotary length) in the slots it is given and derives the logits from what the block table
    leads back to. A wrong slot, position, table, order or leftover changes the tokens that come out.
    """

    def __init__(self, spec: ModelSpec | None = None) -> None:
        super().__init__()
        self.spec = spec or mirror_spec()
        self.rotary: object = None
        self.dtype, self.device = torch.float32, torch.device("cpu")
        self.ranks = ALONE
        self.num_calls = 0
        self.num_spare = 0  # blocks at the end of the cache that several tokens may be written to
        self.before_forward: Callable[[], None] = lambda: None  # tests interrupt the model here

    def forward(
        self,
        token_ids: Tensor,
        batch: RaggedBatch,
        kv: Sequence[LayerKV],
        pictured: None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        self.num_calls += 1
        self.before_forward()
        assert len(kv) == NUM_LAYERS
        assert len(token_ids) == len(batch.positions) == len(batch.slots) == batch.query_starts[-1]
        tokens_per_block, num_blocks = kv[0].keys.shape[2], kv[0].keys.shape[0]
        written = [slot for slot in batch.slots.tolist() if slot < (num_blocks - self.num_spare) * tokens_per_block]
        assert len(set(written)) == len(written), "two tokens share a slot"
        starts = batch.device_starts.tolist()
        lengths = np.diff(starts)
        assert (lengths[: batch.num_decodes] == 1).all()
        if tuple(starts) == batch.query_starts:
            assert (lengths[batch.num_decodes :] > 1).all()
        else:
            assert self.num_spare, "only what is recorded may be padded"
        blocks, offsets = batch.slots // tokens_per_block, batch.slots % tokens_per_block
        for number, layer in enumerate(kv):
            layer.keys[blocks, 0, offsets] = torch.stack([token_ids + number, batch.positions], 1).float()
            lens = batch.rotary_lens.clamp(min=rotary_floor(self.spec))
            layer.values[blocks, 0, offsets] = torch.stack([lens, lens], 1).float()
        hidden = torch.full((len(token_ids), 1), torch.nan, dtype=torch.float64)
        for row in lengths.nonzero()[0].tolist():
            hidden[starts[row + 1] - 1, 0] = self._read_back(row, starts[row + 1] - 1, batch, kv)
        return hidden if rows is None else hidden[rows]

    @staticmethod
    def _read_back(row: int, last: int, batch: RaggedBatch, kv: Sequence[LayerKV]) -> int:
        context = int(batch.positions[last]) + 1
        assert context <= batch.context_lens[row]
        table = batch.block_tables[row, : -(-context // kv[0].keys.shape[2])]
        rows = []
        for number, layer in enumerate(kv):
            keys = layer.keys[table].flatten(0, 2)[:context].numpy()
            lens = layer.values[table].flatten(0, 2)[:context, 0].numpy()
            rows.append(np.stack([keys[:, 0] - number, keys[:, 1], lens], 1))
        assert np.array_equal(rows[0], rows[1], equal_nan=True)
        return fingerprint(rows[0])

    def logits(self, hidden: Tensor) -> Tensor:
        assert not hidden.isnan().any(), "sampled after a token that is not its chunk's last"
        rows = [mirror_logits(int(value), self.spec.vocab) for value in hidden[:, 0].tolist()]
        return torch.from_numpy(np.stack(rows)) if rows else torch.empty(0, self.spec.vocab)


def rotary_floor(spec: ModelSpec) -> int:
    """Below this, rotary lengths make no difference to keys (and so must not to a mirror's)."""
    return spec.rotary.trained_context if spec.rotary.scaling == "dynamic" else 0


def fingerprint(rows: np.ndarray) -> int:
    return zlib.crc32(rows.astype(np.int64).tobytes())


def mirror_logits(mark: int, vocab: int) -> np.ndarray:
    """Float32 [vocab], normally distributed, a function of the mark."""
    return (3 * np.random.default_rng(mark).standard_normal(vocab)).astype(np.float32)


def mirror_next_logits(prompt: Sequence[int], outputs: Sequence[int], vocab: int, floor: int = 0) -> np.ndarray:
    """What a MirrorDecoder must say after these tokens, without any cache."""
    ids = [*prompt, *outputs]
    rows = np.array([[t, i, max(len(prompt), i + 1, floor)] for i, t in enumerate(ids)])
    return mirror_logits(fingerprint(rows), vocab)


def mirror_greedy(prompt: Sequence[int], count: int, vocab: int) -> list[int]:
    outputs: list[int] = []
    while len(outputs) < count:
        outputs.append(int(mirror_next_logits(prompt, outputs, vocab).argmax()))
    return outputs


class SharedMemory:
    """Runs everything anew, but each run spoils what the one before returned, as recordings with one memory do."""

    def __init__(self) -> None:
        self._results: Tensor | None = None

    def run(self, key: object, work: Callable[[], Tensor]) -> Tensor:
        if self._results is not None:
            self._results.fill_(torch.nan)
        self._results = work()
        return self._results


def make_engine(
    decoder: nn.Module, tokenizer: Tokenizer | None = None, *, on_event=None, graphs: bool = False, **config: object
) -> Engine:
    """An engine with 64 blocks of 4 tokens and a session that fills all of them but one, unless told otherwise.

    graphs: run decodes as a GPU does, on rows that move on by themselves, with nothing recorded.
    """
    settings: dict[str, object] = {"cache_max_entry_count": 64, "cache_block_seq_len": 4} | config
    settings.setdefault(
        "session_len",
        min(decoder.spec.max_context, int(settings["cache_max_entry_count"]) * int(settings["cache_block_seq_len"])),
    )
    decoder.num_spare = int(graphs)
    if decoder.device.type == "cuda":
        return Engine(decoder, tokenizer, TurbomindEngineConfig(**settings), on_event=on_event)
    with mock.patch.object(assembly, "choose_recorder", return_value=SharedMemory() if graphs else None):
        return Engine(decoder, tokenizer, TurbomindEngineConfig(**settings), on_event=on_event)


def run_all(engine: Engine) -> dict[int, StepOutput]:
    """Step until nothing is left, checking every step; outputs joined by request id."""
    parts: dict[int, list[StepOutput]] = {}
    while engine.has_work:
        for output in engine.step():
            parts.setdefault(output.request_id, []).append(output)
        engine.check()
    return {key: join_outputs(outputs) for key, outputs in parts.items()}


def join_outputs(outputs: Sequence[StepOutput]) -> StepOutput:
    assert all(output.finish_reason is None for output in outputs[:-1])
    return StepOutput(
        outputs[0].request_id,
        [token_id for output in outputs for token_id in output.token_ids],
        "".join(output.text for output in outputs),
        outputs[-1].finish_reason,
        [entry for output in outputs for entry in output.logprobs or ()] or None,
    )


def generate(engine: Engine, prompt: Sequence[int], gen: GenerationConfig | None = None, **keywords) -> StepOutput:
    request_id = engine.add(prompt, gen, **keywords)
    return run_all(engine)[request_id]


def random_decoder(seed: int, **changes: object) -> Decoder:
    """The real decoder with random weights, large enough that logits differ clearly."""
    sizes = dict(hidden=64, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16, intermediate=96)
    spec = ModelSpec(family="llama", eos_ids=(), **{**sizes, "vocab": 97, "max_context": 256, **changes})
    generator = torch.Generator().manual_seed(seed)
    decoder = Decoder(spec)
    for name, parameter in decoder.named_parameters():
        centre = 1.0 if "norm" in name else 0.0
        parameter.data.normal_(centre, 0.1 if "norm" in name else 0.2, generator=generator)
    return decoder.eval()


@torch.inference_mode()
def whole_sequence_logits(decoder: Decoder, ids: Sequence[int], prompt_len: int) -> Tensor:
    """All positions at once in a fresh cache, without any engine: [len(ids), vocab]."""
    spec, n = decoder.spec, len(ids)
    shape = (1, spec.num_kv_heads, n, spec.head_dim)
    kv = [LayerKV(torch.zeros(shape), torch.zeros(shape)) for _ in range(spec.num_layers)]
    places = torch.arange(n)
    lens = (places + 1).clamp(min=prompt_len)
    layout = RaggedBatch(places, places, torch.zeros(1, 1, dtype=torch.int32), (0, n), (n,), lens, int(n == 1))
    return decoder.logits(decoder(torch.tensor(ids), layout, kv))


def assert_same_greedy(
    decoder: Decoder, prompts: Sequence[Sequence[int]], found: Sequence[list[int]], wanted: Sequence[list[int]]
) -> None:
    """Token for token; where an answer parts from what is wanted, float32 must leave the two tokens equally likely.

    Sums in another order differ by some 1e-6 of a logit, so one near tie in 10⁵ tokens goes the other way, and what
    follows is another text.
    """
    for prompt, told, want in zip(prompts, found, wanted, strict=True):
        if told != want:
            assert len(told) == len(want)
            at = next(n for n, (one, other) in enumerate(zip(told, want, strict=True)) if one != other)
            logits = whole_sequence_logits(decoder, [*prompt, *want[:at]], len(prompt))[-1]
            assert logits[told[at]] >= logits.max() - NEAR_TIE, (prompt, told, want)
            assert logits[want[at]] >= logits.max() - NEAR_TIE, (prompt, told, want)


def random_prompt(rng: random.Random, vocab: int, low: int = 1, high: int = 40) -> list[int]:
    return [rng.randrange(vocab) for _ in range(rng.randint(low, high))]


SPECIAL = ("<unk>", "<s>", "</s>", "<|im_end|>")
MERGES = ("h e", "l l", "he ll", "hell o", "Ġ hello", "E N", "Ġ w", "a b", "ab c")


def byte_alphabet() -> dict[int, str]:
    """Byte → character of the byte-level BPE alphabet (GPT-2's): printable bytes as themselves, others from U+0100."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}


def write_tokenizer(folder: Path) -> Path:
    """A byte-level BPE tokenizer.json: 256 bytes, a few merges, four special tokens."""
    pieces = [*SPECIAL, *byte_alphabet().values(), *(merge.replace(" ", "") for merge in MERGES)]
    added = [
        {"id": i, "content": text, "special": True, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False}
        for i, text in enumerate(SPECIAL)
    ]  # fmt: skip
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
        "vocab": {piece: i for i, piece in enumerate(pieces)}, "merges": list(MERGES),
    }  # fmt: skip
    content = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": level, "post_processor": None, "decoder": level, "model": model,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    return folder


class ScriptedDecoder(nn.Module):
    """Says the given tokens one after another, whatever it is asked: token i + 1 of the script after i outputs."""

    def __init__(self, script: Sequence[int], vocab: int, prompt_len: int, eos_ids: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.ranks = ALONE
        self.spec = mirror_spec(vocab=vocab, max_context=1024, eos_ids=eos_ids)
        self.script, self.prompt_len = list(script), prompt_len
        self.dtype, self.device, self.rotary = torch.float32, torch.device("cpu"), None

    def forward(
        self,
        token_ids: Tensor,
        batch: RaggedBatch,
        kv: Sequence[LayerKV],
        pictured: None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        hidden = (batch.positions - self.prompt_len + 1).double()[:, None]
        return hidden if rows is None else hidden[rows]

    def logits(self, hidden: Tensor) -> Tensor:
        table = torch.zeros(len(hidden), self.spec.vocab)
        for row, step in enumerate(hidden[:, 0].long().tolist()):
            table[row, self.script[step % len(self.script)]] = 5.0
        return table
