"""`lmcourse convert`."""

import json

import pytest

from lmcourse.__main__ import main


def test_convert_writes_a_folder_that_chat_can_use(tmp_path, capsys):
    out = tmp_path / "my 模型"
    assert main(["convert", "tiny-chat", "--dst-path", str(out)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert "attention.wqkv.weight" in "".join(shown)
    assert shown[-1].endswith(f"next: lmcourse chat '{out}'")  # as a shell takes it

    from lmcourse import pipeline

    with pipeline(out) as converted, pipeline("tiny-chat") as original:
        ids = [pipe("hello", max_new_tokens=8).token_ids for pipe in (converted, original)]
    assert ids[0] == ids[1]


def test_convert_with_a_name_writes_the_template_down(tmp_path, capsys):
    from lmcourse.text.chat_template import find_template

    assert main(["convert", "vicuna", "tiny-chat", "--dst-path", str(tmp_path / "out"), "--quiet"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert find_template(None, tmp_path / "out").name == "vicuna"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense", "tiny-chat"], "no chat template is called 'nonsense'"),
        (["~/no-such-model"], "no model was found"),
        (["tiny-chat", "--tp", "2"], "weights are not cut"),
    ],
)
def test_convert_refusals_write_nothing(tmp_path, capsys, arguments, message):
    out = tmp_path / "out"
    assert main(["convert", *arguments, "--dst-path", str(out)]) == 1
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_convert_does_not_overwrite_unasked(tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("precious")
    assert main(["convert", "tiny-chat", "--dst-path", str(out)]) == 1
    assert main(["convert", "tiny-chat", "--dst-path", str(out), "--overwrite"]) == 1
    assert (out / "thesis.txt").read_text() == "precious"
    done = tmp_path / "done"
    assert main(["convert", "tiny-chat", "--dst-path", str(done), "--quiet"]) == 0
    assert main(["convert", "tiny-chat", "--dst-path", str(done), "--quiet"]) == 1
    assert main(["convert", "tiny-chat", "--dst-path", str(done), "--quiet", "--overwrite"]) == 0
    assert json.loads((done / "config.json").read_text())["model_type"] == "internlm2"
