"""A vocabulary stored as a tiktoken file (`qwen.tiktoken`): one line a token, its bytes in base64 and its rank.

Byte-pair encoding needs nothing more, since a token's rank is both its id and the time at which it was learned:

    text ──NFC, pattern──▶ words ──▶ bytes  l o w e r      join the neighbours whose union has the lowest rank,
                                            lo w er        the leftmost first, until no union is a token
                                            low er

The marks of a conversation are not in the file: they follow its last rank, in an order that only the family's
documentation gives, so each file name has a row below. Nothing of a checkpoint's own code is run.

Lesson: 8 (tokenizers without remote code)
"""

from __future__ import annotations

import base64
import binascii
import functools
import heapq
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lmcourse.errors import CheckpointError
from lmcourse.text.files import require_file
from lmcourse.text.special_tokens import SpecialTokens
from lmcourse.text.vocabulary import Leading, Piece

__all__ = ["TIKTOKEN_FILES", "TiktokenFile", "TiktokenVocabulary", "join_pairs"]

_CACHED_WORDS = 2**15


@dataclass(frozen=True)
class TiktokenFile:
    """What a family says of its file elsewhere."""

    name: str
    digits: str  # how many digits one word may hold, as a pattern
    marks: tuple[str | None, ...]  # their ids follow the last rank; None: an id without a mark
    normal_form: bool  # texts are brought to NFC first
    spoken: frozenset[str] = frozenset()  # marks that are part of an answer's text, and not left out of it

    @property
    def pattern(self) -> str:
        """What a word is: a contraction, letters, digits, other signs, line ends, white space."""
        return (
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + self.digits + r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
            r"|\s*[\r\n]+|\s+(?!\S)|\s+"
        )


_QWEN_PLACES = ("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>")  # what Qwen-VL says where things are with
TIKTOKEN_FILES = (
    TiktokenFile(
        "qwen.tiktoken",
        digits="",
        marks=(
            *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
            *(f"<|extra_{i}|>" for i in range(205)),
            *_QWEN_PLACES,
            *("<img>", "</img>", "<imgpad>"),
        ),
        normal_form=True,
        spoken=frozenset(_QWEN_PLACES),
    ),
    TiktokenFile(  # Dbrx
        "cl100k_base.tiktoken",
        digits="{1,3}",
        marks=(
            *(None, "<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"),
            *(None,) * 15,
            *("<|endofprompt|>", "<|pad|>", "<|im_start|>", "<|im_end|>"),
        ),
        normal_form=False,
    ),
)


class TiktokenVocabulary:
    """Implements `Vocabulary`; every text has an encoding, since every byte is a token."""

    leading = Leading.KEEP
    restarts = False
    default_add_bos = False
    prefix: tuple[int, ...] = ()

    def __init__(self, path: Path, special: SpecialTokens) -> None:
        import regex  # for \p{L}: any letter

        kind = _find_kind(path)
        self._ranks = _read_ranks(path)
        marks = {text: len(self._ranks) + i for i, text in enumerate(kind.marks) if text}
        given = {token.text: token.token_id for token in special.added}
        self._marks = marks | given
        self._texts = {rank: token for token, rank in self._ranks.items()}
        self._texts |= {token_id: text.encode() for text, token_id in self._marks.items()}
        self.size = 1 + max(self._texts)
        ordinary = {token.token_id for token in special.added if not token.special}
        ordinary |= {token_id for text, token_id in self._marks.items() if text in kind.spoken}
        self.special_ids = frozenset(set(self._marks.values()) - ordinary)
        longest_first = sorted(self._marks, key=len, reverse=True)
        self._mark = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._words = regex.compile(kind.pattern)
        self._normal_form = kind.normal_form
        self._encode_word = functools.lru_cache(_CACHED_WORDS)(functools.partial(join_pairs, ranks=self._ranks))

    def encode(self, text: str) -> list[int]:
        text = unicodedata.normalize("NFC", text) if self._normal_form else text
        ids: list[int] = []
        end = 0
        for match in self._mark.finditer(text):
            ids += self._encode_stretch(text[end : match.start()])
            ids.append(self._marks[match[0]])
            end = match.end()
        return ids + self._encode_stretch(text[end:])

    def find(self, text: str) -> int | None:
        return self._marks[text] if text in self._marks else self._ranks.get(text.encode())

    def piece(self, token_id: int, previous: int | None) -> Piece:
        return Piece(self._texts.get(token_id, b""))

    def _encode_stretch(self, text: str) -> list[int]:
        return [token_id for word in self._words.findall(text) for token_id in self._encode_word(word.encode())]


def join_pairs(word: bytes, ranks: Mapping[bytes, int]) -> tuple[int, ...]:
    """A word's tokens, by byte-pair encoding (arXiv 1508.07909 §3.2), in O(n log n).

    The heap holds unions of neighbours as (rank, left, middle, right); one whose parts have grown since is passed over.
    """
    if word in ranks:
        return (ranks[word],)
    length = len(word)
    ends = list(range(1, length + 1))  # of the part that starts here; 0 once it belongs to the part on its left
    lefts = list(range(-1, length))  # where the part in front of the one that starts here starts
    heap: list[tuple[int, int, int, int]] = []

    def offer(left: int) -> None:
        middle = ends[left]
        if middle < length and (rank := ranks.get(word[left : ends[middle]])) is not None:
            heapq.heappush(heap, (rank, left, middle, ends[middle]))

    for start in range(length - 1):
        offer(start)
    while heap:
        _, left, middle, right = heapq.heappop(heap)
        if ends[left] != middle or ends[middle] != right:
            continue
        ends[left], ends[middle], lefts[right] = right, 0, left
        offer(left)
        if left:
            offer(lefts[left])
    return tuple(ranks[word[start:end]] for start, end in enumerate(ends) if end)


def _find_kind(path: Path) -> TiktokenFile:
    for kind in TIKTOKEN_FILES:
        if kind.name == path.name:
            return kind
    raise CheckpointError(
        f"the marks and words of {path.name} are not known",
        expected=" | ".join(kind.name for kind in TIKTOKEN_FILES),
        got=path.name,
        where=path,
        next_step="put the model's tokenizer.json into the folder",
    )


def _read_ranks(path: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    try:
        for line in require_file(path).read_bytes().splitlines():
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
    except (ValueError, binascii.Error) as error:
        raise _damaged(path, f"line {len(ranks) + 1}: {error}") from error
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise _damaged(path, "ranks that leave gaps or repeat")
    missing = sum(bytes([byte]) not in ranks for byte in range(256))
    if missing:
        raise _damaged(path, f"{missing} single bytes without a token")
    return ranks


def _damaged(path: Path, got: str) -> CheckpointError:
    return CheckpointError(
        f"{path.name} is not a tiktoken vocabulary",
        expected="lines of a token in base64 and its rank, from 0 on, all 256 bytes among them",
        got=got,
        where=path,
        next_step="copy the file again; a download may have been cut off",
    )
