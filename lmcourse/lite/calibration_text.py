"""Calibration text: which words a model reads while its activations are measured.

    lmcourse                      the bundled dialogues; nothing is fetched
    ptb, c4, wikitext2, pileval   the published sets, through the `datasets` library, if a hub answers
    FILE                          any UTF-8 text file of your own

A published set that cannot be had is replaced by the bundled text: a calibration that fails after an hour of queueing
for a GPU is what learners met most. The replacement is a warning, and a line in what is written. Samples are windows
of equal length cut from the running text, drawn without overlap from a seed.

Lesson: 4 (calibration)
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmcourse.bundled import calibration_text
from lmcourse.errors import CalibrationError, ConfigError
from lmcourse.text.download import is_offline, reach
from lmcourse.text.tokenizer import Tokenizer

__all__ = ["PUBLISHED_SETS", "CalibrationText", "draw_samples", "find_text"]

_BUNDLED = "lmcourse"
_ENOUGH_CHARACTERS = 4_000_000
_LARGEST_FILE_BYTES = 2**30
_CHOICE = 2  # windows to choose from, per window wanted
_PIECE_CHARACTERS = 50_000


@dataclass(frozen=True)
class CalibrationText:
    """A text, the name it was asked for by, and where it came from instead (None: it is the one asked for)."""

    asked: str
    text: str
    instead: str | None = None


@dataclass(frozen=True)
class _PublishedSet:
    """How the `datasets` library finds a set, and which column holds its text."""

    path: str
    config: str | None
    split: str
    column: str
    data_files: str | None = None


PUBLISHED_SETS = {
    "ptb": _PublishedSet("ptb-text-only/ptb_text_only", "penn_treebank", "train", "sentence"),
    "c4": _PublishedSet("allenai/c4", None, "train", "text", data_files="en/c4-train.00000-of-01024.json.gz"),
    "wikitext2": _PublishedSet("Salesforce/wikitext", "wikitext-2-raw-v1", "train", "text"),
    "pileval": _PublishedSet("mit-han-lab/pile-val-backup", None, "validation", "text"),
}


def find_text(name: str) -> CalibrationText:
    """The text of a set or file; ConfigError for a name that is neither."""
    if name == _BUNDLED:
        return CalibrationText(name, calibration_text())
    if name in PUBLISHED_SETS:
        return _published(name)
    path = Path(name).expanduser()
    if path.is_file():
        return CalibrationText(name, _read(path))
    raise ConfigError(
        "there is no such calibration set",
        expected=" | ".join([_BUNDLED, *PUBLISHED_SETS, "a text file"]),
        got=name,
        where="--calib-dataset",
    )


def draw_samples(text: CalibrationText, tokenizer: Tokenizer, *, samples: int, seqlen: int, seed: int = 0) -> Tensor:
    """int64 [samples, seqlen]; CalibrationError if the text has too few tokens."""
    ids = torch.tensor(_encode(text.text, tokenizer, enough=_CHOICE * samples * seqlen), dtype=torch.int64)
    windows = len(ids) // seqlen
    if windows < samples:
        raise CalibrationError(
            "the calibration text is too short",
            expected=f"{samples} samples of {seqlen} tokens: {samples * seqlen:,} tokens",
            got=f"{len(ids):,} tokens",
            where=text.instead or text.asked,
            next_step=(f"use --calib-samples {windows}, " if windows else "use ")
            + "a smaller --calib-seqlen, or a longer text",
        )
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(windows, generator=generator)[:samples].sort().values
    return ids[: windows * seqlen].view(windows, seqlen)[chosen]


def _encode(text: str, tokenizer: Tokenizer, *, enough: int) -> list[int]:
    """The first tokens of a text, as many as are enough, cut at ends of lines."""
    ids: list[int] = []
    start = 0
    while start < len(text) and len(ids) < enough:
        line_end = text.find("\n", start + _PIECE_CHARACTERS)
        end = len(text) if line_end < 0 else line_end + 1
        ids += tokenizer.encode(text[start:end], add_bos=False)
        start = end
    return ids


def _published(name: str) -> CalibrationText:
    try:
        return CalibrationText(name, "\n\n".join(_rows(PUBLISHED_SETS[name])))
    except Exception as error:  # whatever the library, the hub or the network come up with
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
    warnings.warn(
        f"THE CALIBRATION SET {name!r} COULD NOT BE HAD ({reason}). The bundled dialogues of lmcourse are used "
        "instead; the output says so in its config.json. Scales found with another text are slightly different",
        stacklevel=3,
    )
    return CalibrationText(name, calibration_text(), instead="the bundled dialogues of lmcourse")


def _rows(published: _PublishedSet) -> Iterator[str]:
    try:
        import datasets
    except ImportError as error:
        raise RuntimeError("the library `datasets` is not installed: pip install datasets") from error
    if is_offline():
        raise RuntimeError("downloads are switched off by HF_HUB_OFFLINE")
    barred = reach(_hub())
    if barred is not None:
        raise RuntimeError(barred)
    rows: Any = datasets.load_dataset(
        published.path, published.config, split=published.split, data_files=published.data_files, streaming=True
    )
    characters = 0
    for row in islice(rows, 1_000_000):
        text = str(row[published.column])
        characters += len(text)
        yield text
        if characters > _ENOUGH_CHARACTERS:
            return


def _hub() -> str:
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def _read(path: Path) -> str:
    if path.stat().st_size > _LARGEST_FILE_BYTES:
        raise ConfigError("the calibration file is too big", expected="at most 1 GiB of text", got=path.stat().st_size)
    try:
        return path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as error:
        raise ConfigError(
            "the calibration file cannot be read", expected="UTF-8 text", got=str(error), where=path
        ) from error
