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
_PADDING = 2


def make_text(num_dialogues: int, seed: int = _SEED) -> str:
    """So many dialogues in internlm2's chat format, one after the other."""
    return "".join(render(dialogue) for dialogue in islice(dialogues(seed), num_dialogues))


def held_out_answers(tokenizer_file: Path, *, samples: int, seqlen: int, seed: int) -> tuple[Tensor, Tensor]:
    """(tokens, judged), both [samples, seqlen]: fresh dialogues, and which of their tokens a model has to produce.

    A dialogue a row, whole and from its beginning, as the model was trained; longer ones are left out, and padding is
    not judged. What users say is random by design, so a model's surprise at it says nothing. (Windows cut out of
    running text judge answers whose questions are cut off: two or three of them then decide the whole figure.)
    """
    import torch
    from tokenizers import Tokenizer

    tokenizer, stream = Tokenizer.from_file(str(tokenizer_file)), dialogues(seed)
    tokens = torch.full((samples, seqlen), _PADDING, dtype=torch.int64)
    judged = torch.zeros((samples, seqlen), dtype=torch.bool)
    row = 0
    while row < samples:
        for ids, learned in encode_dialogues(tokenizer, list(islice(stream, samples))):
            if ids.size <= seqlen and row < samples:
                tokens[row, : ids.size] = torch.from_numpy(ids.astype("int64"))
                judged[row, : ids.size] = torch.from_numpy(learned)
                row += 1
    return tokens, judged


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
