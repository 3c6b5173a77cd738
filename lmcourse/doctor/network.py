"""Checks whether the model hubs answer, all at once and with a deadline: a machine without a network is no failure.

Lesson: 1 (where models come from)
"""

from __future__ import annotations

import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping

from lmcourse.doctor.report import Row

__all__ = ["check_hubs", "hub_addresses", "probe_hubs"]


def hub_addresses(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Name → address; HF_ENDPOINT and MODELSCOPE_DOMAIN replace the public ones, as for the hubs' own clients."""
    modelscope = environment.get("MODELSCOPE_DOMAIN", "www.modelscope.cn")
    return {
        "ModelScope": modelscope if "://" in modelscope else f"https://{modelscope}",
        "Hugging Face": environment.get("HF_ENDPOINT", "https://huggingface.co"),
    }


def _answers(address: str, timeout_seconds: float) -> str:
    request = urllib.request.Request(address, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=timeout_seconds):
            return "answers"
    except urllib.error.HTTPError as error:
        return "answers" if error.code < 500 else f"answers with status {error.code}"
    except (OSError, ValueError) as error:
        return f"no answer ({getattr(error, 'reason', error)})"


def probe_hubs(
    addresses: Mapping[str, str],
    timeout_seconds: float = 3.0,
    ask: Callable[[str, float], str] = _answers,
) -> dict[str, str]:
    """Name → "answers", or what happened instead. Name resolution has no timeout, so a thread may be left behind."""
    results: dict[str, str] = {}

    def probe(name: str, address: str) -> None:
        results[name] = ask(address, timeout_seconds)

    threads = [threading.Thread(target=probe, args=item, daemon=True) for item in addresses.items()]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + timeout_seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return {name: results.get(name, f"no answer within {timeout_seconds:g} s") for name in addresses}


def check_hubs(answers: Mapping[str, str] | None) -> list[Row]:
    """None: not asked (--offline)."""
    if answers is None:
        return [Row("model hubs", "ok", "not asked (--offline); the bundled model needs none")]
    rows = []
    for name, answer in answers.items():
        if answer == "answers":
            rows.append(Row(name, "ok", answer))
        else:
            found = f"{answer}: the bundled model works, downloads do not"
            rows.append(
                Row(name, "warn", found, "copy models from another machine, or set https_proxy; --offline skips this")
            )
    return rows
