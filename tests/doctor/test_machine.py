"""Checks of CPU, memory, disk and ports, with control groups laid out in a temporary folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmcourse.doctor.machine import (
    Memory,
    check_cpu,
    check_disk,
    check_memory,
    check_ports,
    cpu_quota,
    probe_free_bytes,
    probe_memory,
)

GIB = 1024**3
MEMINFO = f"MemTotal:       {64 * 1024**2} kB\nMemFree: 1 kB\nMemAvailable:   {50 * 1024**2} kB\nHugePages_Total:  0\n"


def put(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


def test_probe_memory_without_control_groups_is_the_machine(tmp_path):
    assert probe_memory("", tmp_path, MEMINFO) == Memory(64 * GIB, 50 * GIB, limited=False)


def test_probe_memory_version_2_takes_the_tightest_group_above(tmp_path):
    root = put(
        tmp_path,
        {
            "slice/memory.max": str(8 * GIB),
            "slice/memory.current": str(5 * GIB),
            "slice/pod/memory.max": "max",
            "slice/pod/memory.current": str(1 * GIB),
        },
    )
    assert probe_memory("0::/slice/pod\n", root, MEMINFO) == Memory(8 * GIB, 3 * GIB, limited=True)


def test_probe_memory_version_1_ignores_its_number_for_no_limit(tmp_path):
    root = put(
        tmp_path,
        {
            "memory/memory.limit_in_bytes": "9223372036854771712",
            "memory/docker/abc/memory.limit_in_bytes": str(4 * GIB),
            "memory/docker/abc/memory.usage_in_bytes": str(1 * GIB),
        },
    )
    facts = probe_memory("4:memory:/docker/abc\n1:cpu,cpuacct:/\n", root, MEMINFO)
    assert facts == Memory(4 * GIB, 3 * GIB, limited=True)


def test_probe_memory_of_an_overdrawn_group_is_zero_not_negative(tmp_path):
    root = put(tmp_path, {"memory.max": str(GIB), "memory.current": str(2 * GIB)})
    assert probe_memory("0::/\n", root, MEMINFO).available_bytes == 0


@pytest.mark.parametrize(
    ("files", "membership", "cores"),
    [
        ({"cpu.max": "max 100000"}, "0::/\n", None),
        ({"a/cpu.max": "150000 100000", "cpu.max": "400000 100000"}, "0::/a\n", 1.5),
        ({"cpu/x/cpu.cfs_quota_us": "200000", "cpu/x/cpu.cfs_period_us": "100000"}, "1:cpu:/x\n", 2.0),
        ({"cpu/x/cpu.cfs_quota_us": "-1", "cpu/x/cpu.cfs_period_us": "100000"}, "1:cpu:/x\n", None),
        ({}, "", None),
    ],
)
def test_cpu_quota(tmp_path, files, membership, cores):
    assert cpu_quota(membership, put(tmp_path, files)) == cores


def test_check_cpu_with_more_threads_than_the_container_may_run():
    row = check_cpu(32, 2.0, 32)
    assert row.status == "warn"
    assert row.fix == "export OMP_NUM_THREADS=2"
    assert check_cpu(2, None, 2).status == "ok"
    assert check_cpu(8, None, None).status == "ok"


def test_check_memory():
    assert check_memory(Memory(8 * GIB, GIB, limited=True)).status == "warn"
    assert "container" in check_memory(Memory(8 * GIB, 4 * GIB, limited=True)).found
    assert check_memory(None).status == "ok"


@pytest.mark.parametrize(
    ("free_gib", "writable", "status"), [(100, True, "ok"), (4, True, "warn"), (0.1, True, "fix"), (100, False, "fix")]
)
def test_check_disk(tmp_path, free_gib, writable, status):
    assert check_disk("disk", tmp_path, int(free_gib * GIB), writable=writable).status == status


def test_probe_free_bytes_of_a_folder_to_come(tmp_path):
    free, writable = probe_free_bytes(tmp_path / "not" / "there" / "yet")
    assert free > 0
    assert writable


def test_check_ports_says_who_listens():
    rows = check_ports(
        {23333: "serve api_server", 8888: "JupyterLab", 6006: "serve gradio"}, {23333: "vllm", 8888: "lab"}
    )
    assert [row.status for row in rows] == ["warn", "ok", "ok"]
    assert "vllm" in rows[0].found
    assert "--server-port 23334" in rows[0].fix
