"""Evidence: what the package itself sees of a task, from a pipeline, a command and a page's talker."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmcourse.errors import ConfigError, MachineError
from lmcourse.homework import read_evidence, record, record_command, tasks, watch
from lmcourse.homework.evidence import add_evidence, turn
from lmcourse.homework.tasks import TASKS, count_met, find_task


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LMCOURSE_HOMEWORK", str(tmp_path))
    monkeypatch.setenv("LMCOURSE_STUDENT", "student")
    return tmp_path / "student"


@pytest.fixture(scope="module")
def pipe():  # type: ignore[no-untyped-def]
    from lmcourse import TurbomindEngineConfig, pipeline

    with pipeline("tiny-chat", backend_config=TurbomindEngineConfig(cache_max_entry_count=0.4)) as pipe:
        yield pipe


def shown(evidence: object) -> dict[str, bool]:
    return {what: met for what, met, _ in evidence.rows()}  # type: ignore[attr-defined]


def test_pipeline_is_asked_what_is_in_force(folder: Path, pipe) -> None:  # type: ignore[no-untyped-def]
    prompts = ["hello", "上海是"]
    evidence = record("w4a16-pipeline", pipe, pipe(prompts, max_new_tokens=4), questions=prompts)
    assert shown(evidence) == {
        "the model answered (python)": True,
        "4-bit weights (W4A16)": False,  # these are not
        "cache ratio 0.4": True,
        "memory within 5 % of what arithmetic predicts": True,
        "versions of this machine": True,
    }
    stored = json.loads((folder / "evidence" / "w4a16-pipeline.json").read_text(encoding="utf-8"))
    assert stored["configuration"]["weight_format"] == "plain"
    assert stored["memory"]["weights"]["measured"] == pipe.stats().weight_bytes
    assert [each["question"] for each in stored["talks"]["python"]] == prompts
    assert "✗ 4-bit weights (W4A16): load the folder" in repr(evidence)


def test_four_bit_weights_are_seen_in_memory(folder: Path) -> None:
    from lmcourse import TurbomindEngineConfig, pipeline

    with pipeline("dummy:tiny:awq", backend_config=TurbomindEngineConfig(cache_max_entry_count=0.4)) as pipe:
        evidence = record("w4a16-pipeline", pipe, pipe("hello", max_new_tokens=2, ignore_eos=True), questions="hello")
    assert evidence.complete, repr(evidence)


def test_command_reports_its_own_configuration(folder: Path) -> None:
    command = "lmcourse chat tiny-chat --cache-max-entry-count 0.4 --max-new-tokens 4"
    evidence = record_command("chat", command, ["hello", "who are you?"])
    assert evidence.complete, repr(evidence)
    assert evidence.data["configuration"]["cache_max_entry_count"] == 0.4
    assert [each["question"] for each in evidence.data["talks"]["terminal"]] == ["hello", "who are you?"]


def test_watched_talker_answers_as_before_and_is_noted(folder: Path, pipe) -> None:  # type: ignore[no-untyped-def]
    watched = watch("w4a16-server", pipe)
    messages = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]
    with watched.stream_infer(messages) as stream:
        pieces = "".join(piece.text for piece in stream)
    assert pieces == pipe(messages).text
    assert watched(["hello"], max_new_tokens=2)[0].text
    assert watched.session_len == pipe.session_len
    talk = read_evidence("w4a16-server").data["talks"]["gradio"]
    assert [each["question"] for each in talk] == ["hello", "hello"]
    assert talk[0]["num_images"] == 0


def test_client_of_a_server_in_a_terminal(folder: Path, pipe) -> None:  # type: ignore[no-untyped-def]
    from lmcourse.serve.background import serve_in_background

    with serve_in_background(pipe) as server:
        record("w4a16-server", pipe)
        evidence = record_command("w4a16-server", ["lmcourse", "serve", "api_client", server.url], ["hello"])
    assert shown(evidence)["the model answered (api client)"]
    assert not evidence.complete


@pytest.mark.parametrize("command", ["ls", "lmcourse list", "lmcourse serve api_server", ["rm", "-rf"], ""])
def test_command_without_a_talk_is_refused(folder: Path, command: object) -> None:
    with pytest.raises(ConfigError, match="no conversation"):
        record_command("chat", command, ["hello"])  # type: ignore[arg-type]


def test_failing_command_says_why_and_leaves_nothing(folder: Path) -> None:
    with pytest.raises(MachineError, match="no-such-model"):
        record_command("chat", "lmcourse chat ./no-such-model", ["hello"])
    assert not folder.exists()
    with pytest.raises(ConfigError, match="nothing to type"):
        record_command("chat", "lmcourse chat", [" "])


def test_client_has_no_configuration_to_record(folder: Path) -> None:
    with pytest.raises(ConfigError, match="no engine in this process"):
        record("w4a16-server", object())  # type: ignore[arg-type]


def test_unknown_task_is_named() -> None:
    with pytest.raises(ConfigError, match="w4a16-chat"):
        find_task("w8a8")


def test_tasks_show_what_is_missing(folder: Path) -> None:
    said = repr(tasks())
    assert said.count(" 0 of ") == len(TASKS) == 5
    assert "✗ it was shown a picture" in said
    assert repr(tasks()) == said
    assert "<li>" in tasks()._repr_html_()


@pytest.mark.parametrize(
    "evidence", [None, [], "x", {"talks": []}, {"talks": {"terminal": [{"question": 1}]}}, {"memory": {"weights": 0}}]
)
def test_anything_may_stand_in_a_file(evidence: object) -> None:
    for task in TASKS:
        assert count_met(task, evidence)[0] == 0


def test_talks_grow_and_stay_bounded(folder: Path) -> None:
    for n in range(60):
        add_evidence("chat", talk=("terminal", [turn(f"question {n}", "a" * 9000, 3)]))
    talk = read_evidence("chat").data["talks"]["terminal"]
    assert len(talk) == 50
    assert talk[-1]["question"] == "question 59"
    assert len(talk[-1]["answer"]) == 4000
