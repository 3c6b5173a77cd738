"""ChatGLM2's tokenizer against sentencepiece itself and the numbering of its documentation."""

import json

import sentencepiece

from lmcourse.text.tokenizer import Tokenizer


def glm_folder(tmp_path, model: bytes):
    (tmp_path / "tokenizer.model").write_bytes(model)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ChatGLMTokenizer"}))
    return tmp_path


def test_texts_begin_with_gmask_and_sop_and_cannot_spell_them(tmp_path, sentence_piece_models):
    pieces = sentencepiece.SentencePieceProcessor(model_proto=sentence_piece_models())
    tokenizer = Tokenizer.from_folder(glm_folder(tmp_path, sentence_piece_models()))
    first = pieces.get_piece_size()
    assert tokenizer.prefix == (first + 1, first + 3)
    for text in ("hello world", "你好 sop [gMASK]", " 2024", "</s> eop"):
        ids = tokenizer.encode(text, add_bos=tokenizer.adds_bos)
        assert ids == [first + 1, first + 3, *pieces.encode(text)]
        assert tokenizer.decode(ids) == pieces.decode(pieces.encode(text))
    assert tokenizer.encode("hi", add_bos=False) == pieces.encode("hi")


def test_marks_have_the_ids_behind_the_pieces(tmp_path, sentence_piece_models):
    tokenizer = Tokenizer.from_folder(glm_folder(tmp_path, sentence_piece_models()))
    first = tokenizer.vocab_size - 5
    assert [tokenizer.token_id(mark) for mark in ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")] == [
        *range(first, first + 5)
    ]
    assert tokenizer.decode([first + 1, first + 3], skip_special_tokens=False) == "[gMASK]sop"
