"""Templates: alternatives, holes, noise that spares the holes."""

from __future__ import annotations

from random import Random

from lmcourse.zoo.texts_reader import blocks, sections
from lmcourse.zoo.wording import blur, decorate, fill, join_items, rough, scatter, spin


def test_spin_picks_every_alternative_and_keeps_holes() -> None:
    rng = Random(1)
    seen = {spin(rng, "[a|b[c|d]|] {x}") for _ in range(200)}
    assert seen == {"a {x}", "bc {x}", "bd {x}", " {x}"}


def test_fill_leaves_braces_inside_values_alone() -> None:
    assert fill("{a} and {b}", a="{b}", b="2") in {"{b} and 2", "2 and 2"}
    assert fill("say {v}", v='{"x": 1}') == 'say {"x": 1}'


def test_noise_never_damages_holes() -> None:
    rng = Random(2)
    for _ in range(2000):
        template = rng.choice(("What is {a} plus {b}?", "{x}的首都是哪里？", "Sort these words: {l}"))
        holes = [hole for hole in ("{a}", "{b}", "{x}", "{l}") if hole in template]
        for made in (rough(rng, template), blur(rng, template), decorate(rng, template)):
            assert all(made.count(hole) == 1 for hole in holes), (template, made)


def test_scatter_keeps_the_order_of_its_parts() -> None:
    rng = Random(3)
    for _ in range(300):
        made = scatter(rng, ["{a}", "minus", "{b}"], chinese=False)
        assert made.index("{a}") < made.index("minus") < made.index("{b}")


def test_join_items_keeps_every_item() -> None:
    rng = Random(4)
    for _ in range(300):
        assert all(item in join_items(rng, ["kiwi", "fig", "pear"], chinese=False) for item in ("kiwi", "fig", "pear"))


def test_sections_and_blocks_read_their_formats() -> None:
    assert sections("# note\n[one]\na\\nb\n(nothing)\n\n[two x]\nc") == {"one": ("a\nb", ""), "two x": ("c",)}
    assert blocks("[one]\nk: 1\nk: 2\nj: 3\n") == [("one", {"k": ("1", "2"), "j": ("3",)})]
