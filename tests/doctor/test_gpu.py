"""Checks of torch, driver, GPU and its memory, with faked machines."""

from __future__ import annotations

import builtins
import sys

import pytest

from lmcourse.doctor.gpu import (
    Card,
    Device,
    TorchFacts,
    check_device_memory,
    check_driver,
    check_gpu,
    check_torch,
    parse_cards,
    probe_torch,
)

GIB = 1024**3
A100 = Device("NVIDIA A100-SXM4-80GB", (8, 0), 75 * GIB, 80 * GIB)
CARD = Card("NVIDIA A100-SXM4-80GB", "550.54.15", 80 * GIB, mig=False)
CPU_TORCH = TorchFacts("2.13.0+cpu")
GPU_TORCH = TorchFacts("2.13.0", cuda_build="12.8", devices=(A100,), architectures=("sm_75", "sm_80", "sm_90a"))
BLIND_TORCH = TorchFacts("2.13.0", cuda_build="13.0")


def test_check_torch_that_does_not_import_says_why():
    row = check_torch(TorchFacts(None, "OSError: libtorch_cpu.so: file too short"), ())
    assert row.status == "fix"
    assert "file too short" in row.found
    assert "--force-reinstall" in row.fix


def test_check_torch_cpu_build_beside_a_gpu_is_a_fix():
    assert check_torch(CPU_TORCH, (CARD,)).status == "fix"
    assert check_torch(CPU_TORCH, ()).status == "ok"
    assert "CUDA 12.8" in check_torch(GPU_TORCH, (CARD,)).found


@pytest.mark.parametrize(
    ("torch", "cards", "driver_cuda", "environment", "status", "said"),
    [
        (CPU_TORCH, (), None, {}, "ok", "CPU"),
        (GPU_TORCH, (CARD,), (12, 4), {}, "ok", "550.54.15, up to CUDA 12.4"),
        (BLIND_TORCH, (CARD,), (12, 4), {}, "fix", "torch needs CUDA 13"),
        (BLIND_TORCH, (CARD,), (13, 0), {"CUDA_VISIBLE_DEVICES": ""}, "warn", "hides"),
        (BLIND_TORCH, (CARD,), (13, 0), {}, "fix", "finds no GPU"),
        (GPU_TORCH, (), None, {}, "ok", "nvidia-smi does not answer"),
    ],
)
def test_check_driver(torch, cards, driver_cuda, environment, status, said):
    row = check_driver(torch, cards, driver_cuda, environment)
    assert row.status == status
    assert said in row.found


def test_check_driver_too_old_names_the_driver_to_get():
    assert "580" in check_driver(BLIND_TORCH, (CARD,), (12, 4), {}).fix


@pytest.mark.parametrize(
    ("capability", "architectures", "status"),
    [
        ((8, 0), ("sm_80",), "ok"),
        ((8, 9), ("sm_80", "sm_90"), "ok"),  # code for 8.0 runs on 8.9
        ((7, 0), ("sm_70",), "fix"),
        ((12, 0), ("sm_80", "sm_90a"), "fix"),
        ((10, 0), ("sm_80", "sm_100a", "compute_120"), "ok"),
        ((9, 0), (), "ok"),
    ],
)
def test_check_gpu_by_compute_capability(capability, architectures, status):
    device = Device("a card", capability, GIB, GIB)
    row = check_gpu(TorchFacts("2.13.0", cuda_build="13.0", devices=(device,), architectures=architectures))
    assert row.status == status


def test_check_device_memory_shows_a_slice_as_a_slice():
    sliced = Device(A100.name, (8, 0), 7 * GIB, 8 * GIB)
    row = check_device_memory(TorchFacts("2.13.0", cuda_build="12.8", devices=(sliced,)), (CARD,), {})
    assert row.status == "ok"
    assert "7.0 GiB free of 8.0 GiB, a slice of a card of 80.0 GiB" in row.found


def test_check_device_memory_of_a_whole_card_is_no_slice():
    # Drivers keep some for themselves: torch sees 79.1 of a card that nvidia-smi calls 80.
    almost = Device(A100.name, (8, 0), 70 * GIB, int(79.1 * GIB))
    row = check_device_memory(TorchFacts("2.13.0", cuda_build="12.8", devices=(almost,)), (CARD,), {})
    assert "slice" not in row.found


def test_check_device_memory_of_a_mig_instance_is_a_slice():
    mig = Device("NVIDIA A100-SXM4-80GB MIG 1g.10gb", (8, 0), 9 * GIB, 10 * GIB)
    row = check_device_memory(TorchFacts("2.13.0", cuda_build="12.8", devices=(mig,)), (), {})
    assert "slice" in row.found


def test_check_device_memory_that_somebody_holds_is_a_warning():
    full = Device(A100.name, (8, 0), GIB, 80 * GIB)
    assert check_device_memory(TorchFacts("2.13.0", devices=(full,)), (CARD,), {}).status == "warn"


@pytest.mark.parametrize(
    ("value", "status"), [("8", "ok"), ("0.5", "ok"), ("8GB", "fix"), ("-1", "fix"), ("nan", "fix")]
)
def test_check_device_memory_shows_and_checks_the_limit(value, status):
    row = check_device_memory(CPU_TORCH, (), {"LMCOURSE_DEVICE_MEMORY_GIB": value})
    assert row.status == status
    assert value in row.found


def test_parse_cards_reads_every_line_and_skips_noise():
    text = "NVIDIA H100, 580.159.04, 81559, Disabled\nNVIDIA A100, 535.1, [N/A], Enabled\nno line\n"
    cards = parse_cards(text)
    assert [card.name for card in cards] == ["NVIDIA H100", "NVIDIA A100"]
    assert cards[0].total_bytes == 81559 * 1024**2
    assert cards[1].mig
    assert cards[1].total_bytes == 0


@pytest.mark.parametrize("error", [ImportError("no torch"), OSError("libc10.so"), AttributeError("half installed")])
def test_probe_torch_survives_a_broken_torch(monkeypatch, error):
    imported = builtins.__import__

    def fail(name, *rest, **keywords):
        if name == "torch":
            raise error
        return imported(name, *rest, **keywords)

    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(builtins, "__import__", fail)
    facts = probe_torch()
    assert facts.version is None
    assert str(error) in facts.error
