"""Trains tiny-chat's tokenizer: byte-level BPE over English and Chinese, ids in InternLM2's order.

    0 <unk>   1 <s>   2 </s>   3…258 the 256 bytes   …merges…   last six: <|plugin|> … <|im_start|>

Every digit and every Han character is a piece of its own, so that numbers line up and unseen Chinese wordings fall into
known pieces; the complete byte alphabet makes any UTF-8 text come back unchanged.
Lesson: 1 (first words from the model)
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from lmcourse.errors import ConfigError

__all__ = ["CHAT_TEMPLATE", "FIRST_TOKENS", "LAST_TOKENS", "save_tokenizer", "train_tokenizer"]

FIRST_TOKENS = ("<unk>", "<s>", "</s>")
LAST_TOKENS = ("<|plugin|>", "<|interpreter|>", "<|action_end|>", "<|action_start|>", "<|im_end|>", "<|im_start|>")

# One Han character | one digit | a word with the space before it | one sign with the space before it | white space.
_PIECES = r"\p{Han}|\p{N}| ?[^\s\p{Han}\p{N}\p{P}\p{S}]+| ?[\p{P}\p{S}]|\s+(?!\S)|\s"

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] }}"
    "{% if message.get('name') in ('plugin', 'interpreter') %}{{ ' name=<|' + message['name'] + '|>' }}{% endif %}"
    "{{ '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def train_tokenizer(
    texts: Iterable[str], *, vocab: int = 4096, last_tokens: tuple[str, ...] = LAST_TOKENS
) -> Tokenizer:
    """A tokenizer of exactly `vocab` ids; ConfigError if the texts hold too few distinct pieces for that many."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab - len(last_tokens),
        special_tokens=list(FIRST_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(list(last_tokens))
    if tokenizer.get_vocab_size() != vocab:
        raise ConfigError(
            "too little text for a tokenizer of this size", expected=vocab, got=tokenizer.get_vocab_size()
        )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", FIRST_TOKENS.index("<s>"))]
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, *, max_context: int) -> None:
    """Writes tokenizer.json and a tokenizer_config.json that transformers' AutoTokenizer reads without remote code."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "</s>",
        "additional_special_tokens": list(LAST_TOKENS),
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_context,
        "chat_template": CHAT_TEMPLATE,
    }
    text = json.dumps(config, ensure_ascii=False, indent=2) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
