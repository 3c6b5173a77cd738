"""What the commands in instructor/capacity.md print, put under them anew.

    python benchmarks/capacity_note.py          rewrites every ```text block that follows a command

The tables are simulated from the step times in this folder, so they are the same on every machine.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOTE = ROOT / "instructor" / "capacity.md"
_SHOWN = re.compile(r"```bash\n(?:\.venv/bin/)?lmcourse ([^\n]*)\n```\n+```text\n(.*?)```", re.DOTALL)

sys.path.insert(0, str(ROOT))


def shown(text: str) -> list[tuple[str, str]]:
    """(command, what stands under it)."""
    return [(found[1], found[2]) for found in _SHOWN.finditer(text)]


def run(command: str) -> str:
    """What it prints, from the repository's root."""
    from lmcourse.__main__ import main

    told, before = io.StringIO(), Path.cwd()
    os.chdir(ROOT)
    try:
        with contextlib.redirect_stdout(told):
            main(shlex.split(command))
    except SystemExit as end:
        if end.code:
            raise
    finally:
        os.chdir(before)
    return "".join(f"{line.rstrip()}\n" for line in told.getvalue().splitlines())


def renew(text: str) -> str:
    """The note with present output."""

    def with_output(found: re.Match[str]) -> str:
        return found[0].replace(f"```text\n{found[2]}", f"```text\n{run(found[1])}")

    return _SHOWN.sub(with_output, text)


if __name__ == "__main__":
    NOTE.write_text(renew(NOTE.read_text("utf-8")), "utf-8")
