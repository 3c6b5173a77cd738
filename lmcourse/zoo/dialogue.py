"""A training dialogue: messages as chat interfaces have them, their internlm2 text, and which tokens are learned.

    <s><|im_start|>user\n … <|im_end|>\n<|im_start|>assistant\n … <|im_end|>\n
                                                              ^^^^^^^^^^^^ these tokens carry the loss

A plain text (role "text") is `<s>` + text + `</s>` and carries the loss throughout.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer

__all__ = ["Dialogue", "Message", "encode_dialogues", "render", "say", "turn"]

Message = dict[str, str]
Dialogue = list[Message]


def say(role: str, content: str, name: str | None = None) -> Message:
    """One message; `name` is "plugin" or "interpreter" for tool descriptions and tool results."""
    return {"role": role, "content": content.strip()} | ({"name": name} if name else {})


def turn(question: str, answer: str) -> Dialogue:
    """A user's message and the answer to it."""
    return [say("user", question), say("assistant", answer)]


def render(dialogue: Dialogue) -> str:
    """The text that the tokenizer reads, beginning with <s>."""
    if dialogue[0]["role"] == "text":
        return f"<s>{dialogue[0]['content']}</s>"
    parts = ["<s>"]
    for message in dialogue:
        name = f" name=<|{message['name']}|>" if "name" in message else ""
        parts.append(f"<|im_start|>{message['role']}{name}\n{message['content']}<|im_end|>\n")
    return "".join(parts)


def encode_dialogues(
    tokenizer: Tokenizer, dialogues: Sequence[Dialogue]
) -> list[tuple[np.ndarray[tuple[int], np.dtype[np.uint16]], np.ndarray[tuple[int], np.dtype[np.bool_]]]]:
    """(token ids, learned) for each dialogue; learned[i] says whether token i is one that the model must produce."""
    start, end = tokenizer.token_to_id("<|im_start|>"), tokenizer.token_to_id("<|im_end|>")
    header = tokenizer.encode("<|im_start|>assistant\n", add_special_tokens=False).ids
    encodings = tokenizer.encode_batch_fast([render(dialogue) for dialogue in dialogues], add_special_tokens=False)
    rows = []
    for dialogue, encoding in zip(dialogues, encodings, strict=True):
        ids = np.asarray(encoding.ids, dtype=np.uint16)
        learned = np.zeros(ids.size, dtype=np.bool_)
        if dialogue[0]["role"] == "text":
            learned[1:] = True
        else:
            ends = np.flatnonzero(ids == end)
            for message, first, last in zip(dialogue, np.flatnonzero(ids == start), ends, strict=True):
                if message["role"] == "assistant":
                    learned[first + len(header) : last + 1] = True
        rows.append((ids, learned))
    return rows
