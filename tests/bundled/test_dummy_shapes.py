"""Shapes of published models: every row is read, has its published size, and its folder is written once."""

from __future__ import annotations

import pytest

from lmcourse.accounting import count_parameters
from lmcourse.bundled import dummy_names, dummy_path
from lmcourse.bundled.dummy_shapes import shape_names
from lmcourse.models import load_spec
from lmcourse.models.decoder import meta_decoder
from lmcourse.text.tokenizer import Tokenizer

BILLIONS = {  # as model cards and papers state them
    "llama2-13b": 13.0, "llama2-70b": 69.0, "codellama-7b": 6.7, "codellama-34b": 33.7, "yi-6b": 6.1, "mistral-7b": 7.2,
    "internlm-7b": 7.3, "internlm2-7b": 7.7, "qwen-1_8b": 1.8, "qwen-7b": 7.7, "qwen1_5-1_8b": 1.8, "baichuan-7b": 7.0,
    "baichuan2-7b": 7.5, "baichuan2-13b": 13.9, "chatglm2-6b": 6.2, "falcon-7b": 6.9, "falcon-40b": 41.3,
    "falcon-180b": 178.4, "falcon-rw-1b": 1.3, "gemma-2b": 2.5, "gemma-7b": 8.5,
    "deepseek-vl-1.3b": 1.65, "deepseek-vl-7b": 6.91, "qwen-vl-7b": 7.72,  # without their eyes
}  # fmt: skip


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", BILLIONS)
def test_shape_has_its_published_size(name):
    plain, packed = (dummy_path(f"dummy:{name}{variant}") for variant in ("", ":awq"))
    spec = load_spec(plain)
    assert count_parameters(spec).total / 1e9 == pytest.approx(BILLIONS[name], abs=0.06, rel=0.02)
    assert load_spec(packed).hidden == spec.hidden
    assert plain == dummy_path(f"dummy:{name}")
    assert sorted(path.name for path in plain.parent.iterdir()) == [name]


def test_tokenizer_of_a_shape_reads_and_writes_any_text():
    tokenizer = Tokenizer.from_folder(dummy_path("dummy:gemma-2b"))
    ids = tokenizer.encode("Hé, 上海", add_bos=False)
    assert "Hé, 上海" in tokenizer.decode(ids)


def test_names_are_listed():
    assert {f"dummy:{name}" for name in shape_names()} < set(dummy_names())


def test_folder_goes_where_it_can(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    assert (tmp_path / "temporary") in dummy_path("dummy:gemma-2b").parents


@pytest.mark.parametrize("name", ["internlm-xcomposer-7b", "internlm-xcomposer2-7b", "internlm-xcomposer2-vl-7b"])
def test_shape_that_sees_is_its_language_models_and_what_pictures_need(name):
    spec = load_spec(dummy_path(f"dummy:{name}"))
    counted = count_parameters(spec)
    alone = "internlm2-7b" if spec.picture_rank else "internlm-7b"
    assert counted.total - counted.pictured == count_parameters(load_spec(dummy_path(f"dummy:{alone}"))).total
    assert counted.total == sum(weight.numel() for weight in meta_decoder(spec).parameters())
    assert counted.pictured == spec.num_layers * 256 * (73728 if spec.picture_rank else 0)
