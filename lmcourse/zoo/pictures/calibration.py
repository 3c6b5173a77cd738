"""Writes text to calibrate tiny-llava's 4-bit weights with: conversations of training, without their pictures.

python -m lmcourse.zoo.pictures.calibration --out words.txt
lmcourse lite auto_awq tiny-llava --calib-dataset words.txt --calib-samples 48 --calib-seqlen 512 --work-dir OUT
"""

from __future__ import annotations

import argparse
from pathlib import Path
from random import Random

from lmcourse.zoo.pictures.conversation import IMAGE, conversation

__all__ = ["calibration_text", "main"]


def calibration_text(count: int = 600, seed: int = 99) -> str:
    """So many conversations in vicuna's form, one a line or more."""
    rng = Random(seed)
    chats = (conversation(rng, turns=6, pictures=int(rng.random() < 0.9)) for _ in range(count))
    return "\n".join(
        chat.system
        + "".join(f"USER: {t.question.replace(IMAGE, '').strip()} ASSISTANT: {t.answer}</s>" for t in chat.turns)
        for chat in chats
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    parser.parse_args().out.write_text(calibration_text(), encoding="utf-8")


if __name__ == "__main__":
    main()
