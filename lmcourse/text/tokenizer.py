"""Tokenizer: text to token ids and back, and TextStream: ids to text while they arrive.

    encode   special tokens are cut out, the rest goes to the vocabulary, BOS comes first if asked for
    decode   the bytes of every token, joined; then read as UTF-8, each impossible byte run becoming U+FFFD
    stream   the same, one token at a time: push() gives the characters that are complete, flush() the rest

push() costs the same for every token however long the text is, and what it returned is never taken back:
"".join(push(i) for i in ids) + flush() == decode(ids). Spaces before punctuation stay as they are.

Lesson: 2 (tokens)
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable
from pathlib import Path

from lmcourse.errors import CheckpointError, PromptError
from lmcourse.text.byte_vocabulary import BYTE_FILE, ByteVocabulary
from lmcourse.text.glm_vocabulary import GLM_CLASS, GlmVocabulary
from lmcourse.text.sentence_piece import SentencePieceVocabulary
from lmcourse.text.special_tokens import SpecialTokens, read_special_tokens
from lmcourse.text.tiktoken_file import TIKTOKEN_FILES, TiktokenVocabulary
from lmcourse.text.tokenizer_json import JsonVocabulary
from lmcourse.text.vocabulary import Leading, Vocabulary

__all__ = ["TextStream", "Tokenizer"]


class Tokenizer:
    """A model's tokenizer. Ids without a text, such as padding rows of an embedding, decode to nothing."""

    def __init__(self, vocabulary: Vocabulary, special: SpecialTokens) -> None:
        self.vocabulary = vocabulary
        self.vocab_size = vocabulary.size
        self.special_ids = vocabulary.special_ids
        self.bos_id = special.bos_id if special.bos is None else vocabulary.find(special.bos)
        self.eos_id = special.eos_id if special.eos is None else vocabulary.find(special.eos)
        says_bos = vocabulary.default_add_bos if special.add_bos is None else special.add_bos
        self.prefix = vocabulary.prefix or (() if self.bos_id is None else (self.bos_id,))
        self.adds_bos = says_bos and bool(self.prefix)  # what transformers does by default for this model

    def __repr__(self) -> str:
        return f"Tokenizer(vocab_size={self.vocab_size}, bos_id={self.bos_id}, eos_id={self.eos_id})"

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer:
        """The tokenizer of a model folder; the first that it has of the files in _KINDS."""
        path = Path(folder).expanduser()
        special = read_special_tokens(path)
        for name, kind in _KINDS:
            if (path / name).exists():
                return cls(kind(path / name, special), special)
        names = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
        raise CheckpointError(
            "the model folder holds no tokenizer",
            expected="tokenizer.json (tokenizers), tokenizer.model (SentencePiece) or qwen.tiktoken (tiktoken)",
            got=", ".join(names[:12]) or "an empty or missing folder",
            where=path,
            next_step="copy the tokenizer's files from where the model was published",
        )

    def encode(self, text: str, *, add_bos: bool) -> list[int]:
        """Ids of a text. BOS (ChatGLM: [gMASK] sop) comes first if asked for, unless the text begins with it."""
        if not isinstance(text, str):
            raise PromptError("only text can be encoded", expected="a str", got=type(text).__name__)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise PromptError(
                "the text holds half of a surrogate pair",
                expected="text that UTF-8 can hold",
                got=repr(text[error.start]),
                where=f"character {error.start}",
                next_step="decode the text's source with errors='replace'",
            ) from error
        ids = self.vocabulary.encode(text)
        begins = tuple(ids[: len(self.prefix)]) == self.prefix
        return [*self.prefix, *ids] if add_bos and not begins else ids

    def decode(self, token_ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """The text of ids; bytes that are not UTF-8 become U+FFFD."""
        stream = TextStream(self, skip_special_tokens)
        return "".join([*map(stream.push, token_ids), stream.flush()])

    def token_id(self, token: str) -> int | None:
        """The id of exactly this token, spelled as the vocabulary spells it; None if it has none."""
        return self.vocabulary.find(token)


def _sentence_piece(path: Path, special: SpecialTokens) -> Vocabulary:
    """ChatGLM's files hold the same model, but its class adds marks of its own."""
    kind = GlmVocabulary if special.tokenizer_class == GLM_CLASS else SentencePieceVocabulary
    return kind(path, special)


_KINDS: tuple[tuple[str, Callable[[Path, SpecialTokens], Vocabulary]], ...] = (
    ("tokenizer.json", JsonVocabulary),
    ("tokenizer.model", _sentence_piece),
    *((file.name, TiktokenVocabulary) for file in TIKTOKEN_FILES),
    (BYTE_FILE, ByteVocabulary),
)


class TextStream:
    """Text of token ids as they come; between pushes it holds at most the three bytes of an unfinished character."""

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool = True) -> None:  # noqa: FBT001, FBT002 (a contract)
        self._vocabulary = tokenizer.vocabulary
        self._skip = skip_special_tokens
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._at_start = self._vocabulary.leading is not Leading.KEEP
        self._previous: int | None = None

    def push(self, token_id: int) -> str:
        """The text that this token completes, often one word, sometimes nothing."""
        if token_id < 0:
            raise PromptError("token ids are not negative", expected="0 or more", got=token_id)
        special = token_id in self._vocabulary.special_ids
        if special and self._skip:
            return ""
        piece = self._vocabulary.piece(token_id, self._previous)
        self._previous = token_id
        data = piece.data
        if self._at_start and data:
            data = data[piece.opens_with_space :]
            self._at_start = not data and self._vocabulary.leading is Leading.DROP_EACH
        if special and self._vocabulary.restarts:
            self._at_start = self._vocabulary.leading is not Leading.KEEP
        return self._utf8.decode(data)

    def flush(self) -> str:
        """The end of the text: U+FFFD if a character was left unfinished."""
        return self._utf8.decode(b"", final=True)
