"""Exercise 3.2: a block allocator: requests grow and end, blocks are handed out and come back.

Which free block is taken would be the allocator's own business; here it is always the one with the smallest number, so
that there is one right answer.

Lesson: 3 (paging)
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from lmcourse.homework.exercise import Case, Exercise, Mistake

__all__ = ["BLOCK_ALLOCATOR"]

Action = tuple[str, int]  # (request, its number of tokens from now on; 0: it ends)
Result = tuple[dict[str, list[int]], list[str]]


def _allocate(
    num_blocks: int,
    tokens_per_block: int,
    actions: Sequence[Action],
    *,
    count: Callable[[int, int], int] = lambda num_tokens, size: -(-num_tokens // size),
    take: Callable[[list[int]], int] = min,
) -> Result:
    free, tables, refused = list(range(num_blocks)), dict[str, list[int]](), list[str]()
    for request, num_tokens in actions:
        table = tables.setdefault(request, [])
        missing = count(num_tokens, tokens_per_block) - len(table)
        if num_tokens == 0:
            free += tables.pop(request)
        elif missing > len(free):
            refused.append(request)
        for _ in range(missing if missing <= len(free) else 0):
            block = take(free)
            free.remove(block)
            table.append(block)
    return {request: table for request, table in tables.items() if table}, refused


def _random_actions(rng: random.Random, num_blocks: int, tokens_per_block: int) -> list[Action]:
    """Requests that grow, end and sometimes ask for more than there is."""
    sizes: dict[str, int] = {}
    actions = []
    for _ in range(rng.randint(12, 20)):
        request = rng.choice("ABCD")
        if sizes.get(request) and rng.random() < 0.25:
            sizes[request] = 0
        else:
            sizes[request] = sizes.get(request, 0) + rng.randint(1, 2 * tokens_per_block)
        actions.append((request, sizes[request]))
    return [*actions, ("E", (num_blocks + 1) * tokens_per_block), ("E", 1)]


def _make_cases(rng: random.Random) -> Iterator[Case]:
    fixed: list[Action] = [("A", 3), ("B", 9), ("A", 4), ("A", 5), ("B", 0), ("C", 4), ("A", 13), ("C", 5)]
    inputs = [(8, 4, fixed), (3, 4, [("A", 8), ("B", 12), ("C", 4), ("B", 1), ("A", 0), ("B", 8)])]
    for _ in range(6):
        num_blocks, tokens_per_block = rng.randint(4, 9), rng.choice([4, 8, 16])
        inputs.append((num_blocks, tokens_per_block, _random_actions(rng, num_blocks, tokens_per_block)))
    for given in inputs:
        shown = f"num_blocks={given[0]}, tokens_per_block={given[1]}, actions={given[2]}"

        def arguments(num_blocks: int, tokens_per_block: int, actions: list[Action]) -> tuple[object, ...]:
            return num_blocks, tokens_per_block, list(actions)

        yield Case(shown, partial(arguments, *given), _allocate(*given))


def _never_gives_back(num_blocks: int, tokens_per_block: int, actions: Sequence[Action]) -> Result:
    """Ends are noted, blocks are lost."""
    free, tables, refused = list(range(num_blocks)), dict[str, list[int]](), list[str]()
    for request, num_tokens in actions:
        table = tables.setdefault(request, [])
        missing = -(-num_tokens // tokens_per_block) - len(table)
        if num_tokens == 0:
            del tables[request]
        elif missing > len(free):
            refused.append(request)
        else:
            table += free[: max(missing, 0)]
            del free[: max(missing, 0)]
    return {request: table for request, table in tables.items() if table}, refused


def _takes_what_there_is(num_blocks: int, tokens_per_block: int, actions: Sequence[Action]) -> Result:
    free, tables, refused = list(range(num_blocks)), dict[str, list[int]](), list[str]()
    for request, num_tokens in actions:
        table = tables.setdefault(request, [])
        if num_tokens == 0:
            free = sorted(free + tables.pop(request))
            continue
        while len(table) * tokens_per_block < num_tokens and free:
            table.append(free.pop(0))
        if len(table) * tokens_per_block < num_tokens:
            refused.append(request)
    return {request: table for request, table in tables.items() if table}, refused


def _counts_from_nothing(num_blocks: int, tokens_per_block: int, actions: Sequence[Action]) -> Result:
    """Blocks for the whole length each time, as if the request had none yet."""
    free, tables, refused = list(range(num_blocks)), dict[str, list[int]](), list[str]()
    for request, num_tokens in actions:
        table = tables.setdefault(request, [])
        missing = -(-num_tokens // tokens_per_block)
        if num_tokens == 0:
            free = sorted(free + tables.pop(request))
        elif missing > len(free):
            refused.append(request)
        else:
            table += free[:missing]
            del free[:missing]
    return {request: table for request, table in tables.items() if table}, refused


def _rounds_down(num_blocks: int, tokens_per_block: int, actions: Sequence[Action]) -> Result:
    return _allocate(num_blocks, tokens_per_block, actions, count=lambda num_tokens, size: num_tokens // size)


def _always_one_more(num_blocks: int, tokens_per_block: int, actions: Sequence[Action]) -> Result:
    return _allocate(num_blocks, tokens_per_block, actions, count=lambda num_tokens, size: num_tokens // size + 1)


def _newest_first(num_blocks: int, tokens_per_block: int, actions: Sequence[Action]) -> Result:
    return _allocate(num_blocks, tokens_per_block, actions, take=lambda free: free[-1])


def _as_they_came_back(num_blocks: int, tokens_per_block: int, actions: Sequence[Action]) -> Result:
    return _allocate(num_blocks, tokens_per_block, actions, take=lambda free: free[0])


def _sorts_tables(num_blocks: int, tokens_per_block: int, actions: Sequence[Action]) -> Result:
    tables, refused = _allocate(num_blocks, tokens_per_block, actions)
    return {request: sorted(table) for request, table in tables.items()}, refused


def _forgets_refusals(num_blocks: int, tokens_per_block: int, actions: Sequence[Action]) -> Result:
    return _allocate(num_blocks, tokens_per_block, actions)[0], []


BLOCK_ALLOCATOR = Exercise(
    id="3.2",
    title="Hand out the blocks",
    signature="allocate(num_blocks, tokens_per_block, actions) → (tables, refused)",
    difficulty=2,
    minutes=20,
    hints=(
        "Keep two things: the free blocks, and a table (a list of blocks) for each request. Every action moves blocks "
        "from one to the other, and their sum never changes.",
        "For a growing request: how many blocks does its new length need in all, and how many has it already? The "
        "difference is what to take. If there are fewer free ones, take none at all and note the request in refused.",
        "missing = -(-num_tokens // tokens_per_block) - len(table). Take the smallest free block `missing` times and "
        "append each to the table, in that order. At 0 tokens the whole table goes back and the request disappears.",
    ),
    make_cases=_make_cases,
    mistakes=(
        Mistake(_forgets_refusals, "requests that did not get what they asked for belong into refused"),
        Mistake(_never_gives_back, "blocks of requests that ended are never free again: the pool leaks"),
        Mistake(_takes_what_there_is, "a refused request has taken the blocks that were left: all or none"),
        Mistake(_counts_from_nothing, "the blocks that a request has already are asked for again each time it grows"),
        Mistake(_rounds_down, "a partly filled block is a block, too: round up"),
        Mistake(_always_one_more, "a request that fills its blocks exactly has one block too many"),
        Mistake(_newest_first, "a good allocator, but it takes another free block: take the smallest number"),
        Mistake(_as_they_came_back, "blocks that came back stand last in line; take the smallest number, each time"),
        Mistake(_sorts_tables, "a table's order is the order of the tokens: new blocks go to its end, unsorted"),
    ),
)
