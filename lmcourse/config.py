"""What users configure and what they get back: engine, generation and template configs, Response. No torch.

Names, defaults and meanings follow LMDeploy 0.3.0 (engine) and 0.6 (sampling): the lesson's scripts run unchanged.
Configs are frozen and checked when they are made; an unknown keyword is a ConfigError that suggests the nearest name.

Lesson: 2 (passing engine parameters)
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from lmcourse.errors import ConfigError

__all__ = ["ChatTemplateConfig", "GenerationConfig", "Response", "TurbomindEngineConfig", "generation_configs"]

T = TypeVar("T")
FinishReason = Literal["stop", "length", "abort"]

_OLD_NAMES = {"request_output_len": "max_new_tokens"}  # keywords of LMDeploy 0.3.0's pipe(...)


def _named_keywords(cls: type[T]) -> type[T]:
    """Make an unknown keyword a ConfigError instead of a bare TypeError."""
    made = cls.__init__
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]

    def checked_init(self: Any, *args: Any, **keywords: Any) -> None:
        for name in keywords:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                raise ConfigError(
                    f"{cls.__name__} has no setting {name!r}",
                    expected=", ".join(names),
                    got=name,
                    next_step=f"did you mean {near[0]!r}?" if near else "remove it",
                )
        made(self, *map(_plain, args), **{name: _plain(value) for name, value in keywords.items()})

    checked_init.__doc__ = made.__doc__
    cls.__init__ = checked_init  # type: ignore[method-assign]
    return cls


def _plain(value: Any) -> Any:
    """The number that a scalar of numpy or torch holds, as `for k in np.arange(5)` gives them; else the value."""
    return value.item() if getattr(value, "shape", None) == () else value


def _check(owner: object, name: str, rule: str, ok: Callable[[Any], bool]) -> None:
    value = getattr(owner, name)
    good = not isinstance(value, str) and not isinstance(value, bool)
    try:
        good = good and bool(ok(value))
    except TypeError:
        good = False
    if not good:
        raise ConfigError(f"{type(owner).__name__}.{name} is out of range", expected=rule, got=repr(value), where=name)


def _check_choice(owner: object, name: str, choices: tuple[object, ...]) -> None:
    value = getattr(owner, name)
    if not any(value == choice and type(value) is type(choice) for choice in choices):
        expected = " | ".join(map(repr, choices))
        raise ConfigError(
            f"{type(owner).__name__}.{name} is not one of its choices",
            expected=expected,
            got=repr(value),
            where=name,
        )


def _is_count(minimum: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and value >= minimum


def _is_number(low: float, high: float = math.inf) -> Callable[[Any], bool]:
    """True for finite numbers in [low, high]; NaN fails every comparison and so is refused."""
    return lambda value: low <= value <= high and math.isfinite(value)


def _is_id(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_bias(value: object) -> bool:
    """Whether this is OpenAI's logit_bias, with ids as numbers."""
    return isinstance(value, dict) and all(map(_is_id, value)) and all(map(_is_number(-100, 100), value.values()))


@_named_keywords
@dataclass(frozen=True)
class TurbomindEngineConfig:
    """How the engine loads and runs a model (LMDeploy `messages.py`, TurbomindEngineConfig)."""

    model_name: str | None = None  # chat template to use; None: chosen from the model
    model_format: str | None = None  # hf | awq | turbomind; None: detected from the files
    tp: int = 1  # devices to spread the model over
    session_len: int | None = None  # most tokens of prompt + answer; None: the model's max_context
    max_batch_size: int = 128  # requests run at the same time
    cache_max_entry_count: float = 0.8  # < 1: share of memory free after loading; >= 1: number of KV blocks
    cache_block_seq_len: int = 64  # tokens per KV block
    quant_policy: int = 0  # KV cache: 0 as computed, 8 int8, 4 int4 (LMDeploy 0.3.0 said 4 and meant a calibrated int8)
    enable_prefix_caching: bool = False
    rope_scaling_factor: float = 0.0  # > 0: dynamic NTK with this factor; 0: as the model says
    use_logn_attn: bool = False  # queries beyond the trained context grow with log(position), whatever the model says
    max_prefill_token_num: int = 8192  # most tokens computed in one step; longer prompts run in chunks
    cuda_graphs: bool = True  # replay a recorded decode step instead of launching its kernels; CPU: no effect
    overlap: bool | None = None  # launch a step while the one before still runs; None: on CUDA, off on CPU
    dtype: str = "auto"  # auto | float16 | bfloat16 | float32; auto is float32 on CPU
    download_dir: str | None = None  # where a hub download goes; None: the hub's own cache
    revision: str | None = None  # branch, tag or commit of a hub model

    def __post_init__(self) -> None:
        _check_choice(self, "model_format", (None, "hf", "awq", "turbomind"))
        _check_choice(self, "quant_policy", (0, 4, 8))
        _check_choice(self, "overlap", (None, True, False))
        for name in ("cuda_graphs", "enable_prefix_caching", "use_logn_attn"):
            _check_choice(self, name, (True, False))
        _check_choice(self, "dtype", ("auto", "float16", "bfloat16", "float32"))
        for name in ("tp", "max_batch_size", "cache_block_seq_len", "max_prefill_token_num"):
            _check(self, name, "a whole number, 1 or more", _is_count(1))
        if self.session_len is not None:
            _check(self, "session_len", "None, or a number of tokens, 2 or more", _is_count(2))
        _check(
            self,
            "cache_max_entry_count",
            "a share above 0 and below 1, or a number of blocks",
            _is_number(1e-9),
        )
        _check(
            self,
            "rope_scaling_factor",
            "0 (off) or a factor of 1 or more",
            lambda v: v == 0 or _is_number(1)(v),
        )


@_named_keywords
@dataclass(frozen=True)
class GenerationConfig:
    """How one request samples and when it stops. Passing none at all means greedy.

    do_sample None means: sample if temperature, top_p, top_k, min_p or random_seed was given; False means greedy.
    """

    n: int = 1  # answers per prompt
    max_new_tokens: int = 512
    do_sample: bool | None = None
    temperature: float | None = None  # divides the logits; 0 means greedy; None: 1 when sampling
    top_p: float | None = None  # smallest set of tokens with this much probability; 1: all
    top_k: int | None = None  # most likely tokens kept; 0: all
    min_p: float | None = None  # tokens at least this fraction as likely as the best; 0: all
    repetition_penalty: float = 1.0  # > 1 makes tokens already seen less likely (arXiv 1909.05858 §4.1)
    presence_penalty: float = 0.0  # taken from the logits of tokens that the answer has already (OpenAI's)
    frequency_penalty: float = 0.0  # the same, times how often it has them
    logit_bias: dict[int, float] | None = None  # added to the logits of these tokens
    ignore_eos: bool = False
    random_seed: int | None = None  # the same seed gives the same answer whatever else is in the batch
    stop_words: list[str] | None = None  # the answer ends before the first of these; they may span tokens
    stop_token_ids: list[int] | None = None
    bad_words: list[str] | None = None  # never generated; each must be one token
    min_new_tokens: int | None = None  # no stop before this many
    skip_special_tokens: bool = True
    logprobs: int | None = None  # most likely tokens reported per position, besides the chosen one

    def __post_init__(self) -> None:
        required: dict[str, tuple[str, Callable[[Any], bool]]] = {
            "n": ("a whole number, 1 or more", _is_count(1)),
            "max_new_tokens": ("a whole number, 1 or more", _is_count(1)),
            "repetition_penalty": ("a finite number above 0", lambda v: _is_number(0)(v) and v > 0),
            "presence_penalty": ("a number from -2 to 2", _is_number(-2, 2)),
            "frequency_penalty": ("a number from -2 to 2", _is_number(-2, 2)),
        }
        optional: dict[str, tuple[str, Callable[[Any], bool]]] = {
            "temperature": ("a finite number, 0 or more", _is_number(0)),
            "top_p": ("a number above 0, at most 1", lambda v: _is_number(0, 1)(v) and v > 0),
            "top_k": ("a whole number, 0 (all) or more", _is_count(0)),
            "min_p": ("a number from 0 to 1", _is_number(0, 1)),
            "random_seed": ("a whole number from 0 to 2**64 - 1", lambda v: _is_count(0)(v) and v < 2**64),
            "min_new_tokens": ("a whole number, 0 or more", _is_count(0)),
            "logprobs": ("a whole number from 0 to 1024", lambda v: _is_count(0)(v) and v <= 1024),
            "logit_bias": ("a dict from token ids to numbers from -100 to 100", _is_bias),
            "stop_token_ids": ("a list of token ids", lambda v: all(map(_is_id, v))),
        }
        for name, (rule, ok) in (
            required | {k: v for k, v in optional.items() if getattr(self, k) is not None}
        ).items():
            _check(self, name, rule, ok)
        _check_choice(self, "do_sample", (None, True, False))
        for name in ("ignore_eos", "skip_special_tokens"):
            _check_choice(self, name, (True, False))
        for name in ("stop_words", "bad_words"):
            self._check_words(name)

    def _check_words(self, name: str) -> None:
        words = getattr(self, name)
        if words is None:
            return
        if isinstance(words, str) or not all(isinstance(word, str) and word for word in words):
            raise ConfigError(
                f"GenerationConfig.{name} holds something that is not a word",
                expected="a list of non-empty strings", got=repr(words), where=name,
            )  # fmt: skip

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn at random rather than taken greedily."""
        if self.temperature == 0:
            return False
        if self.do_sample is not None:
            return self.do_sample
        given = (self.temperature, self.top_p, self.top_k, self.min_p, self.random_seed)
        return any(value is not None for value in given)


def generation_configs(given: object, settings: dict[str, Any], count: int) -> list[GenerationConfig]:
    """One config per prompt, from a call's gen_config (one, or one each) or from its keywords."""
    settings = {_OLD_NAMES.get(name, name): value for name, value in settings.items()}
    if settings.pop("adapter_name", None) is not None:
        raise ConfigError("adapters are not supported", expected="adapter_name=None", where="adapter_name")
    if given is None:
        return [GenerationConfig(**settings)] * count
    if settings:
        raise ConfigError(
            "sampling settings are given twice",
            expected="either gen_config or keywords",
            got="gen_config and " + ", ".join(settings),
            next_step="put the keywords into the gen_config",
        )
    configs: list[Any] = list(given) if isinstance(given, (list, tuple)) else [given] * count
    if len(configs) != count or not all(isinstance(config, GenerationConfig) for config in configs):
        raise ConfigError(
            "gen_config does not fit the prompts",
            expected=f"a GenerationConfig, or a list of {count}",
            got=f"a list of {len(configs)}" if isinstance(given, (list, tuple)) else type(given).__name__,
            where="gen_config",
        )
    return configs


@_named_keywords
@dataclass(frozen=True)
class ChatTemplateConfig:
    """Which chat template wraps a prompt, and the parts of it that may be replaced (LMDeploy `model.py`)."""

    model_name: str | None = None  # a name of `text.chat_template`; None: chosen from the model
    meta_instruction: str | None = None  # replaces the template's system prompt; "" removes it
    capability: str = "chat"  # chat | completion | infilling

    def __post_init__(self) -> None:
        _check_choice(self, "capability", ("chat", "completion", "infilling"))


@dataclass
class Response:
    """One answer. Counts are tokens; token_ids holds no stop token unless ignore_eos was set."""

    text: str
    generate_token_len: int
    input_token_len: int
    session_id: int
    finish_reason: FinishReason | None = None  # None while a stream is still running
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[dict[int, float]] | None = None  # per token: natural-log probability by token id
    index: int = 0  # which of the n answers

    def __repr__(self) -> str:
        return (
            f"Response(text={self.text!r}, finish_reason={self.finish_reason!r}, "
            f"generate_token_len={self.generate_token_len})"
        )
