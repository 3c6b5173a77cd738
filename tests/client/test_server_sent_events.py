"""Bytes cut anywhere give the same events."""

import random

from lmcourse.client.server_sent_events import EventReader

STREAM = (
    'data: {"a": "上海 \u2028 \x85 🙂"}\n\n: comment\n\ndata:no space\r\n\r\nid: 3\nevent: x\ndata: one\ndata: two\n\n'
    "\n\ndata: by CR\r\rdata:\n\ndata: [DONE]\n\ndata: never ended"
).encode()
EVENTS = ['{"a": "上海 \u2028 \x85 🙂"}', "no space", "one\ntwo", "by CR", "", "[DONE]"]


def test_reader_gives_events_whole() -> None:
    assert EventReader().feed(STREAM) == EVENTS


def test_reader_does_not_care_where_bytes_are_cut() -> None:
    seed = random.SystemRandom().randrange(10**6)
    print("seed", seed)
    draw = random.Random(seed)
    for _ in range(200):
        cuts = sorted(draw.sample(range(len(STREAM)), draw.randint(1, 40)))
        pieces = [STREAM[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(STREAM)], strict=True)]
        reader = EventReader()
        assert [event for piece in pieces for event in reader.feed(piece)] == EVENTS


def test_reader_byte_by_byte() -> None:
    reader = EventReader()
    assert [event for n in range(len(STREAM)) for event in reader.feed(STREAM[n : n + 1])] == EVENTS
