"""`lmcourse lite`: the lesson's command, and what it says."""

import json

import pytest

from lmcourse.__main__ import main

LESSON = ["--calib-dataset", "ptb", "--calib-samples", "2", "--calib-seqlen", "32", "--w-bits", "4"]


@pytest.mark.filterwarnings("default")
def test_the_lesson_command_writes_a_model_that_chats(tmp_path, capsys):
    out = tmp_path / "tiny-chat-4bit"
    command = ["lite", "auto_awq", "tiny-chat", *LESSON, "--w-group-size", "128", "--work-dir", str(out)]
    assert main(command) == 0
    said = capsys.readouterr()
    assert "COULD NOT BE HAD" in said.err
    assert "layer" in said.err  # the bar
    assert f"lmcourse chat {out}" in said.out
    assert json.loads((out / "config.json").read_text())["quantization_config"]["quant_method"] == "awq"

    from lmcourse import TurbomindEngineConfig, pipeline

    with pipeline(str(out), backend_config=TurbomindEngineConfig(model_format="awq")) as pipe:
        assert pipe("hello", max_new_tokens=4).generate_token_len == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--w-bits", "5"], "4-bit weights"),
        (["--w-group-size", "100"], "does not divide"),
        (["--calib-samples", "0"], "1 or more"),
        (["--calib-samples", "999999"], "too short"),
        (["--calib-dataset", "nothing"], "no such calibration set"),
    ],
)
def test_refusals_write_nothing(tmp_path, capsys, flags, message):
    assert main(["lite", "auto_awq", "tiny-chat", "--work-dir", str(tmp_path / "out"), *flags]) == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_calibrate_says_where_it_wrote(tmp_path, capsys):
    out = str(tmp_path / "stats")
    assert main(["lite", "calibrate", "tiny-chat", *LESSON[2:6], "--work-dir", out]) == 0
    assert out in capsys.readouterr().out
    assert (tmp_path / "stats" / "calibration.json").is_file()


def test_help_tells_defaults(capsys):
    with pytest.raises(SystemExit):
        main(["lite", "auto_awq", "-h"])
    said = " ".join(capsys.readouterr().out.split())
    for text in ("(default: lmcourse)", "(default: 128)", "--search-scale", "--w-sym", "--batch-size", "examples:"):
        assert text in said
