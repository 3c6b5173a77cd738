"""doctor() as a whole: on this machine, and in a process where torch cannot be imported."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from lmcourse.doctor import collect, doctor


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("LMCOURSE_MODEL", raising=False)
    return tmp_path


def test_doctor_offline_covers_every_subject(home):
    names = {row.name for row in doctor(offline=True).rows}
    ports = {f"port {port}" for port in (23333, 6006, 7860, 8888)}
    software = {"Python", "packages", "JupyterLab", "text encoding", "Chinese font"}
    gpu = {"torch", "NVIDIA driver", "GPU", "device memory", "Triton", "C compiler"}
    machine = {"CPU", "memory", "disk (home)", "disk (hub cache)"}
    assert names >= ports | software | gpu | machine | {"course model", "~/internlm2-chat-1_8b", "model hubs"}


def test_doctor_with_a_probe_that_fails_still_reports_the_rest(home, monkeypatch):
    monkeypatch.setattr(collect.machine, "read_memory", lambda: 1 / 0)
    report = doctor(offline=True)
    broken = [row for row in report.rows if "ZeroDivisionError" in row.found]
    assert {row.status for row in broken} == {"warn"}
    assert any(row.name == "Triton" for row in report.rows)


def test_doctor_runs_where_torch_is_broken(home):
    program = """
import sys, json
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers"):
            raise OSError("libtorch_cpu.so: file too short")
sys.meta_path.insert(0, Broken())
from lmcourse.doctor import doctor
print(json.dumps(doctor(offline=True).to_json()))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    rows = {row["name"]: row for row in json.loads(run.stdout)["rows"]}
    assert rows["torch"]["status"] == "fix"
    assert "file too short" in rows["torch"]["found"]
    assert rows["Python"]["status"] == "ok"
    assert "port 23333" in rows


def test_choose_model_without_a_real_one_is_none(home):
    assert collect.choose_model(home) is None
