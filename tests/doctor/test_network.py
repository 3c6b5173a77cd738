"""Hubs that answer, refuse, and never answer."""

from __future__ import annotations

import threading
import time

from lmcourse.doctor.network import check_hubs, hub_addresses, probe_hubs


def test_probe_hubs_does_not_wait_for_one_that_hangs():
    release = threading.Event()

    def ask(address, timeout_seconds):
        if address == "slow":
            release.wait(300)
        return "answers"

    started = time.monotonic()
    answers = probe_hubs({"A": "quick", "B": "slow"}, 0.2, ask)
    release.set()
    assert answers["A"] == "answers"
    assert "within 0.2 s" in answers["B"]
    assert time.monotonic() - started < 200


def test_probe_hubs_at_a_closed_port_says_no_answer():
    answers = probe_hubs({"A": "http://127.0.0.1:9"}, 2.0)
    assert answers["A"].startswith("no answer")


def test_check_hubs_that_do_not_answer_only_warns():
    rows = check_hubs({"A": "answers", "B": "no answer (timed out)"})
    assert [row.status for row in rows] == ["ok", "warn"]


def test_check_hubs_not_asked_is_ok():
    assert [row.status for row in check_hubs(None)] == ["ok"]


def test_hub_addresses_follow_the_mirror_variables():
    addresses = hub_addresses({"HF_ENDPOINT": "https://mirror.example", "MODELSCOPE_DOMAIN": "ms.example"})
    assert addresses == {"ModelScope": "https://ms.example", "Hugging Face": "https://mirror.example"}
