"""Tokenizers of the transformers side: tokenizer.json, and SentencePiece without remote code."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import sentencepiece
import torch

from lmcourse.baseline import AutoTokenizer, SentencePieceTokenizer
from lmcourse.bundled import model_path
from lmcourse.errors import CheckpointError
from lmcourse.text.tokenizer import Tokenizer

TEXTS = ["hello world", "你好，世界！", "  two  spaces\n\nand lines", "🤗 é ﬁ", "<|im_start|>user\nhi<|im_end|>\n"]


@pytest.fixture(scope="module")
def sentence_piece_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sentencepiece")
    trained = io.BytesIO()
    lines = ["hello world how are you", "please provide three suggestions", "你好 世界", "给我讲个笑话"] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=trained, vocab_size=340, model_type="bpe", byte_fallback=True,
        minloglevel=2,
    )  # fmt: skip
    (folder / "tokenizer.model").write_bytes(trained.getvalue())
    added = {
        str(340 + i): {"content": token, "special": True} for i, token in enumerate(("<|im_start|>", "<|im_end|>"))
    }
    settings = {"add_bos_token": True, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
                "tokenizer_class": "InternLM2Tokenizer", "added_tokens_decoder": added}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text('{"model_type": "internlm2"}')
    return folder


@pytest.mark.parametrize("text", TEXTS)
def test_fast_tokenizer_agrees_with_the_engines(text):
    theirs, ours = AutoTokenizer.from_pretrained("tiny-chat"), Tokenizer.from_folder(model_path("tiny-chat"))
    ids = theirs(text, add_special_tokens=False).input_ids
    assert ids == ours.encode(text, add_bos=False)
    assert theirs.decode(ids) == ours.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("text", TEXTS[:4])
def test_sentence_piece_tokenizer_agrees_with_sentencepiece(sentence_piece_folder, text):
    reference = sentencepiece.SentencePieceProcessor(model_file=str(sentence_piece_folder / "tokenizer.model"))
    tokenizer = AutoTokenizer.from_pretrained(sentence_piece_folder, trust_remote_code=True)
    assert isinstance(tokenizer, SentencePieceTokenizer)
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert ids == reference.encode(text)
    assert tokenizer.encode(text) == [1, *ids]
    assert tokenizer.decode(ids) == reference.decode(ids)


def test_sentence_piece_tokenizer_has_what_scripts_call(sentence_piece_folder):
    tokenizer = AutoTokenizer.from_pretrained(sentence_piece_folder)
    batch = tokenizer("hello", return_tensors="pt")
    assert batch.input_ids.shape == batch.attention_mask.shape
    assert batch.input_ids[0].tolist() == tokenizer.encode("hello")
    assert batch.to("cpu").input_ids.dtype == torch.int64
    assert tokenizer(["a", "hello you"]).input_ids == [tokenizer.encode("a"), tokenizer.encode("hello you")]
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") == 341
    assert tokenizer.convert_tokens_to_ids("<|nothing|>") is None
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
    assert (
        tokenizer.decode(
            [340, *tokenizer.encode("hi", add_special_tokens=False), 341], skip_special_tokens=True
        ).strip()
        == "hi"
    )


def test_load_tokenizer_of_a_folder_without_one(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        AutoTokenizer.from_pretrained(tmp_path)
