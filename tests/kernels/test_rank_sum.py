"""The sum over ranks on a GPU: two ranks of one GPU, each on a stream of its own, as eager launches and as a graph."""

from __future__ import annotations

import time

import pytest
import torch
from rank_cases import make_mailboxes, require_sums

from lmcourse.kernels.rank_sum import TILE, rank_sum

SUMS = ((1, 4096, 1), (8, 37, 4), (3, 2048, 2), (64, 4096, 1), (1, 4096, 3), (1, 5, 1))


def sum_on_streams(boxes, streams, parts_of_ranks):
    results = []
    for box, stream, parts in zip(boxes, streams, parts_of_ranks, strict=True):
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            results.append(rank_sum(parts, box))
    for stream in streams:
        torch.cuda.current_stream().wait_stream(stream)
    return results


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rank_sum_on_cuda_is_the_reference(dtype):
    boxes, memories = make_mailboxes(2, 512 * TILE, "cuda")
    streams = [torch.cuda.Stream() for _ in boxes]
    for tokens, features, num_parts in SUMS * 3:
        parts = [torch.randn(num_parts, tokens, features, device="cuda").to(dtype) for _ in boxes]
        require_sums(sum_on_streams(boxes, streams, parts), parts)
    del memories


@pytest.mark.gpu
def test_rank_sum_in_a_graph_goes_on_counting():
    boxes, memories = make_mailboxes(2, 512 * TILE, "cuda")
    streams = [torch.cuda.Stream() for _ in boxes]
    parts = [torch.empty(2, 8, 4096, device="cuda") for _ in boxes]
    sum_on_streams(boxes, streams, parts)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        first = sum_on_streams(boxes, streams, parts)
        again = sum_on_streams(boxes, streams, [own.flip(0) for own in parts])
        third = sum_on_streams(boxes, streams, [own * 2 for own in parts])
    for _ in range(20):
        for own in parts:
            own.normal_()
        graph.replay()
        for results, scale in ((first, 1), (again, 1), (third, 2)):
            require_sums(results, [own * scale for own in parts])
    assert boxes[0].epochs[0] == 61
    del memories


@pytest.mark.gpu
def test_rank_sum_in_graphs_ends_when_the_host_says_so():
    boxes, memories = make_mailboxes(2, 512 * TILE, "cuda")
    parts = torch.randn(1, 8, 4096, device="cuda")
    boxes[0].halted.fill_(1)
    rank_sum(parts, boxes[0])  # compiles
    torch.cuda.synchronize()
    boxes[0].halted.fill_(0)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(4):
            rank_sum(parts, boxes[0])
    for _ in range(3):
        graph.replay()  # nobody will ever raise the other flags
    over = torch.cuda.Event()
    over.record()
    time.sleep(0.1)
    assert not over.query()
    boxes[0].halted.fill_(1)
    torch.cuda.synchronize()
    assert boxes[0].epochs[0] == 13
    del memories


def test_rank_sum_beyond_its_slots_is_an_error():
    boxes, _ = make_mailboxes(2, TILE)
    with pytest.raises(ValueError, match="at most 1024 elements"):
        rank_sum(torch.zeros(1, 5, 1000), boxes[0])
