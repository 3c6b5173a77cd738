"""A class at one moment, as sentences and as a table: the server's snapshot (GET /class) in, text or HTML out.

    3 of 30 students are at work. Most tokens go to Ada: 61 %, an equal share is 33 %. 4 answers wait.

Names come from a roster and are escaped. Bars only repeat what the numbers say.

Lesson: 5 (serving a class)
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["Snapshot", "busy_students", "class_summary", "class_table"]

Snapshot = Mapping[str, Any]  # as the server's schema ClassAnswer says
_MOST_DOTS = 8
_LETTER = 0.008  # of the pool's bar, as wide as a letter
_NARROW = "max-width: 9rem; overflow: hidden; text-overflow: ellipsis"
_HEADS = ("Student", "Answers", "Longest open", "KV blocks", "Tokens/s", "Share", "Last minute", "In all", "Quota left")
_WINDOWS = {"tokens_per_minute": "this minute", "tokens_per_hour": "this hour", "tokens_total": "in all"}


def busy_students(snapshot: Snapshot) -> list[dict[str, Any]]:
    """Who has an answer open or was written for in the last minute, in the snapshot's order."""
    return [row for row in snapshot["students"] if row["num_answers"] or row["tokens_last_minute"]]


def class_summary(snapshot: Snapshot) -> str:
    """What a glance should tell."""
    busy, pool = busy_students(snapshot), snapshot["pool"]
    num_busy = len(busy) + bool(snapshot["others"]["running"] or snapshot["others"]["tokens_last_minute"])
    lines = [f"{len(busy)} of {len(snapshot['students'])} students are at work."]
    first = max(busy, key=lambda row: row["throughput_share"], default=None)
    if first is not None and first["throughput_share"]:
        share = f"{first['name']}: {first['throughput_share']:.0%}, an equal share is {1 / num_busy:.0%}"
        lines.append(f"Most tokens go to {share}.")
    if snapshot["waiting"]:
        queue = max(busy, key=lambda row: row["waiting"], default=None)
        whose = f", most of {queue['name']} ({queue['waiting']})" if queue and queue["waiting"] else ""
        lines.append(f"{snapshot['waiting']:,} answers wait{whose}.")
    lines.append(f"{snapshot['tokens_per_second']:,.0f} tokens/s; {snapshot['running']} of {snapshot['places']} places")
    lines[-1] += f" and {pool['used']:,} of {pool['blocks']:,} KV blocks are in use."
    return " ".join(lines)


def class_table(snapshot: Snapshot) -> str:
    """HTML: one row for each student at work, and how many are not. Prompts and answers are not in a snapshot."""
    busy = busy_students(snapshot)
    head = "".join(f'<th scope="col" style="{_side(place)}">{text}</th>' for place, text in enumerate(_HEADS))
    others = {"name": "instructor and other keys", "answers": [], "refused": 0, "quotas": {}, **snapshot["others"]}
    listed = [*busy, *([others] if others["running"] + others["waiting"] + others["tokens_last_minute"] else [])]
    most = {name: max([1e-9, *(row[name] for row in listed)]) for name in ("blocks", "throughput_share")}
    rows = "".join(_row(student, most) for student in listed)
    idle = len(snapshot["students"]) - len(busy)
    told = "● an answer being written, ○ one that waits. Prompts and answers are their students’ own and not shown."
    return (
        '<div style="line-height: 1.35; white-space: normal">'
        f'<p style="max-width: 52rem">{html.escape(class_summary(snapshot))}</p>'
        f"{_pool_bar(snapshot)}"
        '<table style="border-collapse: collapse; font-variant-numeric: tabular-nums; line-height: 1.35">'
        f'<caption style="text-align: left">{told}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        f"<p>{idle} more have done nothing for a minute.</p></div>"
    )


def _side(place: int) -> str:
    side = "left" if place in (0, 1, len(_HEADS) - 1) else "right"
    return f"text-align: {side}; padding: 1px 6px; white-space: nowrap"


def _pool_bar(snapshot: Snapshot) -> str:
    """The KV pool from edge to edge: who holds most first, then what is kept, then what is free."""
    pool = snapshot["pool"]
    holders = sorted((row for row in snapshot["students"] if row["blocks"]), key=lambda row: -row["blocks"])
    held = sum(row["blocks"] for row in holders) + snapshot["others"]["blocks"]
    scale = min(1.0, pool["used"] / max(1, held))  # a block that several share is in the sum more than once
    parts = [(row["name"], row["blocks"] * scale) for row in holders]
    parts.append(("others", pool["used"] - sum(count for _, count in parts)))
    hatched = [_part(name, count / max(1, pool["blocks"]), place % 4 + 1) for place, (name, count) in enumerate(parts)]
    rest = _part("kept", pool["kept"] / max(1, pool["blocks"]), 0) + _part(
        "free", pool["free"] / max(1, pool["blocks"]), 0
    )
    told = f"{pool['used']:,} of {pool['blocks']:,} KV blocks are in use, {pool['free']:,} are free"
    box = "display: flex; height: 26px; border: 1px solid; max-width: 52rem; margin: 4px 0"
    return f'<div role="img" aria-label="{told}" style="{box}">{"".join(hatched)}{rest}</div>'


def _part(label: str, share: float, hatch: int) -> str:
    """hatch 0 is blank; each other number is a direction of lines."""
    if share <= 0:
        return ""
    shown = html.escape(label) if share > _LETTER * len(label) else ""
    lines = f"; background: repeating-linear-gradient({45 * hatch}deg, #8883 0 4px, #8888 4px 5px)" if hatch else ""
    room = f"flex: 0 1 {share:.2%}; min-width: 0; overflow: hidden; white-space: nowrap; font-size: 11px"
    style = f"{room}; line-height: 26px; text-align: center; box-shadow: inset -1px 0 currentColor{lines}"
    return f'<span title="{html.escape(label, quote=True)}" style="{style}">{shown}</span>'


def _row(student: Mapping[str, Any], most: Mapping[str, float]) -> str:
    """`most`: what full bars stand for."""
    share = student["throughput_share"]
    cells: Sequence[str] = (
        _dots(student),
        _oldest(student),
        f"{student['blocks']:,} {_bar(student['blocks'] / most['blocks'])}",
        f"{student['tokens_per_second']:,.0f}",
        f"{share:.0%} {_bar(share / most['throughput_share'])}",
        f"{student['tokens_last_minute']:,}",
        f"{student['tokens_total']:,}" if "tokens_total" in student else "",
        _quota(student),
    )
    name = f'<th scope="row" style="{_side(0)}; {_NARROW}">{html.escape(student["name"])}</th>'
    listed = [f'<td style="{_side(place)}">{cell}</td>' for place, cell in enumerate(cells, start=1)]
    return f"<tr>{name}{''.join(listed)}</tr>"


def _dots(student: Mapping[str, Any]) -> str:
    running, waiting = student["running"], student["waiting"]
    if not running + waiting:
        return "–"
    shown = ("●" * running + "○" * waiting)[:_MOST_DOTS]
    more = running + waiting - len(shown)
    return f'<span role="img" aria-label="{running} being written, {waiting} waiting">{shown}</span>' + (
        f" +{more}" if more else ""
    )


def _oldest(student: Mapping[str, Any]) -> str:
    if not student["answers"]:
        return "–"
    answer = student["answers"][0]
    tokens = f"{answer['tokens']:,} tokens" if answer["tokens"] else "no token yet"
    return f"{answer['age_seconds']:.0f} s, {tokens}"


def _quota(student: Mapping[str, Any]) -> str:
    """The one of which least is left."""
    left = {name: entry for name, entry in student["quotas"].items() if name in _WINDOWS}
    name = min(left, key=lambda name: left[name]["left"] / left[name]["limit"], default=None)
    told = "no limit" if name is None else f"{left[name]['left']:,} {_WINDOWS[name]}"
    return told + (f", <b>{student['refused']:,} refused</b>" if student["refused"] else "")


def _bar(share: float) -> str:
    """Fifty pixels are the whole."""
    filled = f"display: block; width: {min(1.0, share) * 50:.0f}px; height: 9px; background: currentColor"
    edge = "display: inline-block; width: 50px; border: 1px solid; opacity: 0.7"
    return f'<span aria-hidden="true" style="{edge}"><span style="{filled}"></span></span>'
