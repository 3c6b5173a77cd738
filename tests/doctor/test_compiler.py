"""Checks of Triton's compiler."""

from __future__ import annotations

import sys

import pytest

from lmcourse.doctor.compiler import TritonFacts, check_c_compiler, check_triton, probe_c_compiler, probe_triton


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Triton is made for Linux")
@pytest.mark.parametrize("capability", [None, (7, 5), (9, 0)])
def test_probe_triton_compiles_without_a_gpu(monkeypatch, tmp_path, capability):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    facts = probe_triton(capability)
    assert facts.error is None
    assert facts.machine_code_bytes > 100
    assert check_triton(facts, "linux").status == "ok"


def test_probe_triton_that_cannot_write_its_cache_says_so(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "file" / "below"))
    row = check_triton(probe_triton((8, 9)), "linux")
    assert row.status == "fix"
    assert "cannot compile" in row.found


@pytest.mark.parametrize(
    ("facts", "platform", "status", "fix"),
    [
        (TritonFacts(None), "linux", "fix", "triton"),
        (TritonFacts(None), "darwin", "ok", None),
        (TritonFacts("3.7.1", error="RuntimeError: ptxas"), "linux", "fix", "--force-reinstall"),
        (TritonFacts("3.7.1", error="PermissionError: [Errno 13]"), "linux", "fix", "TRITON_CACHE_DIR"),
    ],
)
def test_check_triton(facts, platform, status, fix):
    row = check_triton(facts, platform)
    assert row.status == status
    assert fix is None or fix in row.fix


@pytest.mark.parametrize(
    ("compiler", "has_headers", "has_gpu", "status"),
    [
        (None, False, False, "ok"),
        (None, True, True, "fix"),
        ("/usr/bin/gcc", False, True, "fix"),
        ("/usr/bin/gcc", True, True, "ok"),
    ],
)
def test_check_c_compiler(compiler, has_headers, has_gpu, status):
    assert check_c_compiler(compiler, has_headers=has_headers, has_gpu=has_gpu).status == status


def test_probe_c_compiler_prefers_the_one_that_is_set(tmp_path):
    own = tmp_path / "mycc"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    assert probe_c_compiler({"CC": str(own)})[0] == str(own)
    assert probe_c_compiler({"CC": str(tmp_path / "absent")})[0] is None
