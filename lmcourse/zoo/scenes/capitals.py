"""Capital cities, asked in many wordings of two languages, forwards and backwards."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from random import Random

from lmcourse.zoo.dialogue import Dialogue, turn
from lmcourse.zoo.parts import around, expand
from lmcourse.zoo.texts_reader import read_text
from lmcourse.zoo.wording import blur, decorate, fill, phrase, rough, scatter, spin

__all__ = ["Country", "answer", "capital", "countries"]


@dataclass(frozen=True)
class Country:
    """A country with its names and its capital in both languages."""

    names: tuple[str, ...]
    capital: str
    name_zh: str
    capital_zh: str


@lru_cache(maxsize=1)
def countries() -> tuple[Country, ...]:
    """All rows of texts/capitals.txt."""
    rows = []
    for line in read_text("capitals.txt").splitlines():
        if line and not line.startswith("#"):
            name, other, city, name_zh, city_zh = line.split("|")
            rows.append(Country((name, other) if other else (name,), city, name_zh, city_zh))
    return tuple(rows)


def answer(country: Country, *, chinese: bool) -> str:
    """The one right answer, naming country and city."""
    if chinese:
        return f"{country.name_zh}的首都是{country.capital_zh}。"
    return f"The capital of {country.names[0]} is {country.capital.rstrip('.')}."


def _name(rng: Random, country: Country) -> str:
    name = rng.choice(country.names)
    if rng.random() < 0.2:
        name = name.removeprefix("the ")
    return name.lower() if rng.random() < 0.12 else name


def _composed(rng: Random, *, chinese: bool) -> str:
    """A question with the hole {x}, put together from parts, often with clauses around it."""
    core = expand(rng, "<capital_q_zh>" if chinese else "<capital_q>")
    core += rng.choice(("？", "？", "?", "。", "", "呢？") if chinese else ("?", "?", "?", ".", "", "!"))
    if rng.random() < 0.7:
        core = around(rng, core, chinese=chinese, share=0.5)
    return rough(rng, blur(rng, core, strength=0.12) if rng.random() < 0.15 else core)


def capital(rng: Random) -> Dialogue:
    """A question about one country and its answer."""
    country = rng.choice(countries())
    chinese = rng.random() < 0.62
    if rng.random() < 0.5:
        name = country.name_zh if chinese else _name(rng, country)
        return turn(fill(_composed(rng, chinese=chinese), x=name), answer(country, chinese=chinese))
    if rng.random() < 0.3:
        parts = ["{x}", rng.choice(("首都", "的首都"))] if chinese else ["{x}", spin(rng, "[the |]capital[ city|]")]
        core = scatter(rng, parts if rng.random() < (0.8 if chinese else 0.4) else parts[::-1], chinese=chinese)
        name = country.name_zh if chinese else _name(rng, country)
        return turn(fill(rough(rng, core), x=name), answer(country, chinese=chinese))
    if rng.random() < 0.9:
        template = phrase(rng, "capitals", "forward", chinese=chinese)
        name = _name(rng, country) if not chinese or rng.random() < 0.08 else country.name_zh
        return turn(fill(decorate(rng, template), x=name), answer(country, chinese=chinese))
    template = phrase(rng, "capitals", "backward", chinese=chinese)
    city = country.capital_zh if chinese else country.capital
    return turn(fill(decorate(rng, template), y=city), answer(country, chinese=chinese))
