"""Trials of the table's rows: green where they agree, red where anything is changed on one side."""

from __future__ import annotations

import json
from unittest import mock

import pytest

from lmcourse.baseline import relabelled
from lmcourse.bench import families
from lmcourse.bundled import tiny_configs
from lmcourse.models import FAMILIES

RELABELLED = ("InternLM", "QWen", "Baichuan", "ChatGLM2", "DeepSeek-MoE")


def find(name):
    return next(family for family in FAMILIES if family.name == name)


def test_every_row_that_runs_has_a_tiny_model_in_the_tables_order():
    names = list(tiny_configs())
    rows = [name.partition(" (")[0] for name in names]  # a row may have several, told apart in brackets
    assert list(dict.fromkeys(rows)) == [family.name for family in FAMILIES if family.name in names]
    assert {family.name for family in FAMILIES} <= set(names)
    for name, row in zip(names, rows, strict=True):
        assert set(tiny_configs()[name]["architectures"]) <= set(find(row).architectures)


def test_try_families_all_rows_agree_with_transformers():
    table = families.try_families(seed=7)
    assert [trial.family for trial in table] == [family.name for family in FAMILIES]
    assert all(trial.ok is not False for trial in table), str(table)
    assert "✓ Llama " in str(table)
    assert str(table).count("\n") == table._repr_html_().count("<tr style") - 1


@pytest.mark.parametrize("name", RELABELLED)
def test_try_family_is_red_when_the_reference_has_another_weight(name):
    read = relabelled.read_tensors

    def changed(folder):
        tensors = read(folder)
        first = next(key for key in tensors if (key.endswith("norm.weight") and ".0." in key) or "ln_1" in key)
        return tensors | {first: tensors[first] * 1.5}

    with mock.patch.object(relabelled, "read_tensors", changed):
        assert families.try_family(find(name)).ok is False


def test_run_family_says_why_a_row_fails(tmp_path):
    broken = tiny_configs() | {"Mistral": tiny_configs()["Mistral"] | {"hidden_act": "relu"}}
    with mock.patch("lmcourse.models.tiny_models.tiny_configs", return_value=broken):
        trial = families.run_family(find("Mistral"))
    assert (trial.ok, "hidden_act" in trial.what) == (False, True)
    assert json.dumps(trial.what)
