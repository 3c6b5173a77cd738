"""dummy_shapes.json as folders: configs of published models, one a line, beside nothing but a byte tokenizer.

    dummy:falcon-7b        → CACHE/lmcourse/dummy/DIGEST/falcon-7b/{config.json, random_weights.json, …}
    dummy:falcon-7b:awq    the same with a quantization_config

A folder's path has a digest of what is in it, so it is written once and never changed. CACHE is XDG_CACHE_HOME, or
~/.cache, or the folder for temporary files where neither can be written.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["shape_folder", "shape_names"]

_FILE, _AWQ = Path(__file__).with_name("dummy_shapes.json"), ":awq"
_FIRST_BYTE_ID = 300  # above the special ids of every row


@functools.cache
def _shapes() -> Mapping[str, Mapping[str, Any]]:
    shapes: Mapping[str, Mapping[str, Any]] = json.loads(_FILE.read_text(encoding="utf-8"))
    return shapes


def shape_names() -> tuple[str, ...]:
    """Each with its variant: falcon-7b, falcon-7b:awq."""
    return tuple(name + variant for name in _shapes() for variant in ("", _AWQ))


def shape_folder(name: str) -> Path:
    """The folder of one of the names; written if it is not there yet."""
    shape, _, variant = name.partition(":")
    config = dict(_shapes()[shape]) | ({"quantization_config": _awq(_shapes()[shape])} if variant else {})
    files = {file: json.dumps(content, indent=2) + "\n" for file, content in _files(config).items()}
    digest = hashlib.sha256(json.dumps(files).encode()).hexdigest()[:12]
    for cache in _caches():
        folder = cache / "lmcourse" / "dummy" / digest / name.replace(":", "-")
        if folder.is_dir():
            return folder
        with suppress(OSError):
            return _write(folder, files)
    raise OSError("no folder for temporary files can be written")


def _caches() -> Iterator[Path]:
    stated = os.environ.get("XDG_CACHE_HOME", "")
    yield Path(stated) if stated else Path.home() / ".cache"
    yield Path(tempfile.gettempdir())


def _write(folder: Path, files: Mapping[str, str]) -> Path:
    """All files or none: they appear with one rename, which whoever was quicker wins."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
    try:
        for name, text in files.items():
            (partial / name).write_text(text, encoding="utf-8")
        partial.chmod(0o755)
        with suppress(FileExistsError, OSError):
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if not folder.is_dir():
        raise OSError(f"{folder} cannot be written")
    return folder


def _files(config: Mapping[str, Any]) -> dict[str, Any]:
    language = _language_model(config)
    vocab = language.get("padded_vocab_size", language.get("vocab_size"))
    bos, eos = language.get("bos_token_id"), language.get("eos_token_id", 2)
    special = {str(eos): {"content": "</s>", "special": True}}
    tokens = {"eos_token": "</s>"}
    if bos not in (None, eos):
        special[str(bos)] = {"content": "<s>", "special": True}
        tokens["bos_token"] = "<s>"
    return {
        "config.json": config,
        "random_weights.json": {"seed": 0, "std": 0.02},
        "byte_tokenizer.json": {"vocab_size": vocab, "first_byte_id": _FIRST_BYTE_ID},
        "tokenizer_config.json": tokens | {"add_bos_token": "bos_token" in tokens, "added_tokens_decoder": special},
    }


def _language_model(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config of the language model, which may stand inside."""
    inner: Mapping[str, Any] = config.get("language_config", config)
    return inner


def _awq(config: Mapping[str, Any]) -> dict[str, Any]:
    """Groups of 128 input features, or as many as divide all widths (Falcon-7B's 4544 is 71 · 64)."""
    config = _language_model(config)
    widths = [config[key] for key in ("hidden_size", "intermediate_size", "ffn_hidden_size") if key in config]
    group = functools.reduce(math.gcd, widths, 128)
    return {"quant_method": "awq", "version": "gemm", "bits": 4, "group_size": group, "zero_point": True}
