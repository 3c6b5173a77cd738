"""Scores any chat function on the held-out tasks: the trainer's model, transformers, our engine, a quantized engine.

    python -m lmcourse.zoo.evaluate --model tiny-chat --instances 1000 --out RESULT.json

`evaluate(generate, instances_per_task)` asks `generate` with batches of message lists and expects greedy answers.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lmcourse.bundled import model_path
from lmcourse.zoo.dialogue import Message, say
from lmcourse.zoo.tasks import TASKS, Instance, instances

__all__ = ["Generate", "evaluate", "evaluate_marks", "main", "table"]

Generate = Callable[[list[list[Message]]], list[str]]
_SHOWN_FAILURES = 12


def _play(generate: Generate, chats: list[Instance]) -> list[str]:
    """The last answer of every chat; turn by turn, all chats that have that turn at once."""
    histories = [list(chat.before) for chat in chats]
    last = [""] * len(chats)
    for turn in range(max(len(chat.turns) for chat in chats)):
        active = [index for index, chat in enumerate(chats) if turn < len(chat.turns)]
        for index in active:
            histories[index].append(say("user", chats[index].turns[turn]))
        answers = generate([list(histories[index]) for index in active])
        for index, answer in zip(active, answers, strict=True):
            histories[index].append(say("assistant", answer))
            last[index] = answer
    return last


def _score(chats: list[Instance], answers: list[str]) -> dict[str, Any]:
    groups: dict[str, list[bool]] = defaultdict(list)
    failures = []
    for chat, answer in zip(chats, answers, strict=True):
        right = chat.is_right(answer)
        groups[chat.group].append(right)
        if not right:
            failures.append({"group": chat.group, "asked": chat.turns[-1][-300:], "answered": answer[:200]})
    total = sum(map(sum, groups.values()))
    return {
        "accuracy": round(total / len(chats), 4),
        "instances": len(chats),
        "groups": {name: round(sum(marks) / len(marks), 4) for name, marks in sorted(groups.items())},
        "failures": failures[:_SHOWN_FAILURES],
    }


def evaluate_marks(generate: Generate, count: int, task: str) -> list[bool]:
    """Which of a task's first `count` chats end in a right answer."""
    chats = instances(task, count)
    return [chat.is_right(answer) for chat, answer in zip(chats, _play(generate, chats), strict=True)]


def evaluate(generate: Generate, instances_per_task: int, tasks: tuple[str, ...] = tuple(TASKS)) -> dict[str, Any]:
    """Accuracy per task and per group within a task, with some of the failures."""
    results = {}
    for task in tasks:
        chats = instances(task, instances_per_task)
        results[task] = _score(chats, _play(generate, chats))
    return results


def table(results: dict[str, Any]) -> str:
    """The results as lines of text: task, accuracy in percent, instances, groups."""
    lines = []
    for task, row in results.items():
        groups = " ".join(f"{name} {value:.3f}" for name, value in row["groups"].items())
        lines.append(f"{task:<12} {100 * row['accuracy']:6.2f} %  {row['instances']:6d}  {groups}")
    return "\n".join(lines)


def _chat_model(folder: Path, device: str) -> Generate:
    import torch
    from tokenizers import Tokenizer

    from lmcourse.zoo.checkpoint import TINY_CHAT, load_state
    from lmcourse.zoo.decoder import TrainableDecoder
    from lmcourse.zoo.decoding import ChatModel

    model = TrainableDecoder(TINY_CHAT, seed=0)
    model.load_state_dict(load_state(folder))
    model.to(torch.device(device)).eval()
    return ChatModel(model, Tokenizer.from_file(str(folder / "tokenizer.json")))


def main() -> None:
    """Command line: evaluates the weights as exported, computed in float32."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-chat", help="folder or bundled name (default tiny-chat)")
    parser.add_argument("--instances", type=int, default=1000, help="instances a task (default 1000)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS), help="which (default all)")
    parser.add_argument("--out", type=Path, help="where to write the results as JSON")
    arguments = parser.parse_args()
    folder = Path(arguments.model)
    folder = folder if folder.is_dir() else model_path(arguments.model)
    chat = _chat_model(folder, arguments.device)
    results: dict[str, Any] = {}
    for task in arguments.tasks:  # written task by task: what is done is kept when time runs out
        results |= evaluate(chat, arguments.instances, (task,))
        if arguments.out:
            arguments.out.write_text(json.dumps(results, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        print(table({task: results[task]}), flush=True)  # noqa: T201 (a script's result)


if __name__ == "__main__":
    main()
