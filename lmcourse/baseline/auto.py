"""AutoTokenizer and AutoModelForCausalLM as the lesson imports them, safe and working on transformers 5.

    from lmcourse.baseline import AutoTokenizer, AutoModelForCausalLM      # instead of: from transformers import …

They accept what the lesson passes (`~`, `torch_dtype`, `trust_remote_code=True`), find bundled models by name, run
nothing that came with a checkpoint, and read no pickle. Models come back with `chat` and a `cuda` for any machine.

Lesson: 2 (transformers)
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig
from transformers import AutoModelForCausalLM as HFAutoModel
from transformers.utils import logging

from lmcourse.baseline.chat import ChatMixin
from lmcourse.baseline.internlm2 import InternLM2Config, InternLM2ForCausalLM, read_tensors
from lmcourse.baseline.notes import say_once
from lmcourse.baseline.tokenizer import load_tokenizer
from lmcourse.errors import CheckpointError, ConfigError, UnsupportedModelError
from lmcourse.models import Checkpoint, open_checkpoint
from lmcourse.models.engine_format import ENGINE_FILE
from lmcourse.text.hub import find_model

__all__ = ["AutoModelForCausalLM", "AutoTokenizer"]

_NOTHING_REMOTE = "trust_remote_code=True is accepted and not needed: no code of the checkpoint is run"
_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}

AutoConfig.register(InternLM2Config.model_type, InternLM2Config, exist_ok=True)
HFAutoModel.register(InternLM2Config, InternLM2ForCausalLM, exist_ok=True)


class AutoTokenizer:
    """Stands in for transformers.AutoTokenizer."""

    @staticmethod
    def from_pretrained(path: str | Path, *, trust_remote_code: bool = False) -> Any:
        """transformers' fast tokenizer of the folder, or one over SentencePiece where there is no tokenizer.json."""
        if trust_remote_code:
            say_once(_NOTHING_REMOTE)
        return load_tokenizer(find_model(path))


class AutoModelForCausalLM:
    """Stands in for transformers.AutoModelForCausalLM."""

    @staticmethod
    def from_pretrained(
        path: str | Path,
        *,
        torch_dtype: torch.dtype | str | None = None,
        dtype: torch.dtype | str | None = None,
        trust_remote_code: bool = False,
        attn_implementation: str = "sdpa",
    ) -> Any:
        """The model on the CPU; without a dtype in float32, as the lesson says ("auto": as stored)."""
        if trust_remote_code:
            say_once(_NOTHING_REMOTE)
        folder = find_model(path)
        config = _read_config(folder)
        model, info = _load(
            _with_chat(config),
            folder, config=config, dtype=_find_dtype(torch_dtype, dtype), attn_implementation=attn_implementation,
        )  # fmt: skip
        _check_names(info, folder)
        return model.eval()


def _find_dtype(torch_dtype: torch.dtype | str | None, dtype: torch.dtype | str | None) -> torch.dtype | str:
    asked = torch_dtype if dtype is None else dtype
    if asked is None:
        return torch.float32
    if isinstance(asked, torch.dtype) or asked == "auto":
        return asked
    if asked not in _DTYPES:
        raise ConfigError(
            "unknown dtype", expected=f"auto, {', '.join(_DTYPES)} or a torch.dtype", got=asked, where="dtype"
        )
    return _DTYPES[asked]


def _read_config(folder: Path) -> Any:
    if (folder / ENGINE_FILE).is_file():
        raise UnsupportedModelError(
            "transformers reads the Hugging Face format, and this folder is in the engine's own",
            expected="the folder that was converted", got=ENGINE_FILE, where=folder,
            next_step="give the Hugging Face folder here, and this one to lmcourse.pipeline",
        )  # fmt: skip
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, OSError, KeyError) as error:
        raise UnsupportedModelError(
            "transformers cannot read this model's config without code from the checkpoint, which is never run",
            expected="an architecture that transformers 5 knows, or InternLM2",
            got=str(error).splitlines()[0], where=folder / "config.json",
            next_step="run it with lmcourse.pipeline, or take a model of a supported family (lmcourse list)",
        ) from error  # fmt: skip


def _with_chat(config: Any) -> Any:
    """The native class of this config, with ChatMixin in front of it."""
    native = HFAutoModel._model_mapping[type(config)]
    if issubclass(native, ChatMixin):
        return native
    return type(native.__name__, (ChatMixin, native), {"__module__": __name__})


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Without transformers' load bar and report: what they say is raised or warned about here, in one form."""
    bar, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def _load(cls: Any, folder: Path, **settings: Any) -> tuple[Any, dict[str, Any]]:
    # opening it first: its errors name what is damaged, pickled or missing; transformers' do not
    drawn = not isinstance(open_checkpoint(folder, torch.device("cpu")), Checkpoint)
    place: Path | None = folder
    if drawn and not issubclass(cls, InternLM2ForCausalLM):  # which reads either kind by itself
        place, settings["state_dict"] = None, read_tensors(folder)
    try:
        with _quiet_transformers():
            model, info = cls.from_pretrained(place, use_safetensors=True, output_loading_info=True, **settings)
    except (RuntimeError, OSError, ValueError) as error:
        raise CheckpointError(
            "the weights do not fit the config", got=str(error).strip().splitlines()[-1],
            where=folder, next_step="take config.json and the weights from the same release",
        ) from error  # fmt: skip
    return model, info


def _check_names(info: dict[str, Any], folder: Path) -> None:
    missing, unused = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    if missing:
        raise CheckpointError(
            "the checkpoint lacks weights that its config asks for",
            expected=", ".join(missing[:5]), got=f"{len(missing)} missing", where=folder,
            next_step="get the model again, all its files",
        )  # fmt: skip
    if unused:
        warnings.warn(f"{folder}: not used by this model: {', '.join(unused[:5])}", stacklevel=3)
