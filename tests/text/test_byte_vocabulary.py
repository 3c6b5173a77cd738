"""The tokenizer of models with random weights: every text round-trips, every id has a text."""

from __future__ import annotations

import random
import shutil

import pytest

from lmcourse.bundled import dummy_names, dummy_path
from lmcourse.errors import CheckpointError
from lmcourse.models import load_spec
from lmcourse.text.chat_template import find_template
from lmcourse.text.tokenizer import TextStream, Tokenizer

FOLDERS = ("internlm2-1_8b", "llama2-7b", "tiny")  # the others are written by bundled/dummy_shapes.py


@pytest.fixture(params=[name for name in dummy_names() if name.split(":")[1] in FOLDERS])
def folder(request):
    return dummy_path(request.param)


def test_encode_and_decode_round_trip(folder):
    tokenizer = Tokenizer.from_folder(folder)
    for text in ("hello", "上海是", "", " \n\t", "😀 e\u0301", "\x00\x01", "<0x41>"):
        ids = tokenizer.encode(text, add_bos=False)
        assert len(ids) == len(text.encode())
        assert tokenizer.decode(ids) == text


def test_sizes_are_the_configs_and_special_ids_lie_within(folder):
    tokenizer, spec = Tokenizer.from_folder(folder), load_spec(folder)
    assert tokenizer.vocab_size == spec.vocab
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.adds_bos) == (1, 2, True)
    assert max(tokenizer.special_ids) < spec.vocab


def test_template_is_the_familys_and_its_marks_are_single_tokens(folder):
    tokenizer, template = Tokenizer.from_folder(folder), find_template(None, folder)
    usual = {"internlm2": "internlm2", "llama": "llama2"}[load_spec(folder).family]
    assert template.name == ("vicuna" if folder.name.startswith("llava") else usual)
    for word in template.stop_words:
        assert tokenizer.encode(word, add_bos=False) == [tokenizer.token_id(word)]


def test_every_id_streams_and_only_special_ones_are_silent(folder):
    tokenizer = Tokenizer.from_folder(folder)
    ids = [*range(600), *random.Random(7).choices(range(tokenizer.vocab_size), k=500), tokenizer.vocab_size - 1]
    ids = [i for i in ids if i < tokenizer.vocab_size]
    stream = TextStream(tokenizer)
    assert "".join([*map(stream.push, ids), stream.flush()]) == tokenizer.decode(ids)
    assert tokenizer.decode([1, 2, tokenizer.vocab_size]) == ""
    for token_id in {i for i in ids if i > 258} - tokenizer.special_ids:
        assert tokenizer.decode([token_id]).isprintable()


def test_find_knows_bytes_and_special_tokens():
    tokenizer = Tokenizer.from_folder(dummy_path("dummy:internlm2-1_8b"))
    assert tokenizer.token_id("<0x41>") == 3 + 0x41
    assert tokenizer.token_id("<|im_end|>") == 92542
    assert tokenizer.token_id("A") is None


@pytest.mark.parametrize("content", ["{}", '{"vocab_size": 258, "first_byte_id": 3}', '{"vocab_size": "x"}', "nothing"])
def test_damaged_file_is_a_checkpoint_error(tmp_path, content):
    shutil.copytree(dummy_path("dummy:tiny"), tmp_path / "model")
    (tmp_path / "model" / "byte_tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match="byte_tokenizer"):
        Tokenizer.from_folder(tmp_path / "model")
