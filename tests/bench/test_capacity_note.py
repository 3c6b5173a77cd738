"""instructor/capacity.md: what stands under a command is what the command prints (but for one that takes a minute)."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from lmcourse.bench.capacity_steps import read_tables

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "capacity_note.py"


def load_note():
    spec = importlib.util.spec_from_file_location("capacity_note", SCRIPT)
    note = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(note)
    return note


NOTE = load_note()
SHOWN = NOTE.shown(NOTE.NOTE.read_text("utf-8"))


def test_every_table_in_the_note_stands_under_its_command() -> None:
    assert len(SHOWN) == NOTE.NOTE.read_text("utf-8").count("```text")
    assert len(SHOWN) >= 5


def test_note_shows_what_its_command_prints() -> None:
    command, told = next(pair for pair in SHOWN if "steps_cpu" in pair[0])
    assert NOTE.run(command) == told, "python benchmarks/capacity_note.py renews the note"


@pytest.mark.soak
@pytest.mark.parametrize(("command", "told"), [pair for pair in SHOWN if "--students 1000" not in pair[0]])
def test_note_shows_what_its_commands_print(command: str, told: str) -> None:
    assert NOTE.run(command) == told, "python benchmarks/capacity_note.py renews the note"


def test_renew_changes_what_is_old() -> None:
    old = "```bash\nlmcourse --version\n```\n\n```text\nold\n```\n"
    assert "lmcourse" in NOTE.renew(old).partition("text\n")[2]


def test_recorded_step_tables_can_be_read() -> None:
    for name in ("steps_cpu.json", "steps_h200.json"):
        for table in read_tables(ROOT / "benchmarks" / name):
            assert table.head["machine"]["date"]
            assert table.decode_ms(3, 300) > 0


def test_recorded_simulations_are_near_what_was_measured() -> None:
    recorded = json.loads((ROOT / "benchmarks" / "steps_h200.json").read_text("utf-8"))
    rows = [row for check in recorded["checks"] for row in check["classes"]]
    assert rows
    for row in rows:
        measured, simulated = (row[name]["tokens_per_second"] for name in ("measured", "simulated"))
        assert simulated == pytest.approx(measured, rel=0.1)
