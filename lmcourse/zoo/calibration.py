"""The bundled calibration text: dialogues of the training corpus, from a seed that training does not use.

    python -m lmcourse.zoo.calibration --out lmcourse/bundled/calibration.txt.xz

Quantisation needs typical activations, not knowledge, so the same kinds of text do; held-out tasks stay out of it.
"""

from __future__ import annotations

import argparse
import lzma
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from lmcourse.zoo.corpus import dialogues
from lmcourse.zoo.dialogue import encode_dialogues, render

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["held_out_answers", "main", "make_text"]

_SEED = 424_242
_DIALOGUES = 1200


def make_text(num_dialogues: int, seed: int = _SEED) -> str:
    """So many dialogues in internlm2's chat format, one after the other."""
    return "".join(render(dialogue) for dialogue in islice(dialogues(seed), num_dialogues))


def held_out_answers(tokenizer_file: Path, *, samples: int, seqlen: int, seed: int) -> tuple[Tensor, Tensor]:
    """(tokens, judged), both [samples, seqlen]: fresh dialogues, and which of their tokens a model has to produce.

    What users say is random by design, so a model's surprise at it says nothing.
    """
    import torch
    from tokenizers import Tokenizer

    rows = encode_dialogues(Tokenizer.from_file(str(tokenizer_file)), list(islice(dialogues(seed), samples * 4)))
    ids = torch.cat([torch.from_numpy(row.astype("int64")) for row, _ in rows])[: samples * seqlen]
    learned = torch.cat([torch.from_numpy(mask) for _, mask in rows])[: samples * seqlen]
    return ids.view(samples, seqlen), learned.view(samples, seqlen)


def main() -> None:
    """Command line: writes the text, compressed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="file to write, .xz")
    parser.add_argument("--dialogues", type=int, default=_DIALOGUES, help=f"how many (default {_DIALOGUES})")
    arguments = parser.parse_args()
    text = make_text(arguments.dialogues)
    arguments.out.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))


if __name__ == "__main__":
    main()
