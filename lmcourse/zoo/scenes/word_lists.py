"""Lists of words to sort alphabetically or to reverse; the lists are random, so no list is ever learned by heart.

A third of the words are made up, so that the model learns spelling and not only the rank of known words.
"""

from __future__ import annotations

import re
from random import Random

from lmcourse.zoo.dialogue import Dialogue, turn
from lmcourse.zoo.made_up import KINDS, made_up_word
from lmcourse.zoo.parts import around, expand
from lmcourse.zoo.texts_reader import general, word
from lmcourse.zoo.wording import decorate, fill, join_items, phrase, rough, scatter

__all__ = ["answer", "random_words", "word_list"]


def random_words(rng: Random, count: int) -> list[str]:
    """Distinct words: from one kind, from all kinds, or partly made up; lower-case, now and then capitalised."""
    draw = rng.random()
    if draw < 0.2:
        kind = rng.choice((*KINDS, "names"))
        words = rng.sample(word(kind), min(count, len(word(kind))))
    else:
        made_up = 0.0 if draw < 0.5 else 0.3 if draw < 0.8 else 1.0
        chosen: set[str] = set()
        while len(chosen) < count:
            known = general(chinese=False) if rng.random() < 0.2 else word(rng.choice((*KINDS, "more", "more", "more")))
            chosen.add(made_up_word(rng) if rng.random() < made_up else rng.choice(known))
        words = sorted(chosen)
        rng.shuffle(words)
    return [w.capitalize() for w in words] if rng.random() < 0.07 else words


def answer(words: list[str], *, sort: bool) -> str:
    """The list in its new order, joined by ", " (or by the Chinese comma if the words are Chinese)."""
    ordered = sorted(words, key=str.lower) if sort else words[::-1]
    return ("、" if words[0] > "\u4e00" else ", ").join(ordered)


def _composed(rng: Random, *, sort: bool, chinese: bool) -> str:
    """A request put together from parts, before or after the list or after a sentence that holds the list."""
    tail = "_zh" if chinese else ""
    request = expand(rng, f"<request_{'sort' if sort else 'reverse'}{tail}>")
    if rng.random() < 0.35:
        request = around(rng, request, chinese=chinese, share=0.35)
    end = rng.choice(("。", "？", "", "。", "！") if chinese else (".", "?", "", ".", "!", ", please."))
    draw = rng.random()
    if draw < 0.45:
        colon = rng.choice(
            ("：", ":", "：", "？", "。", "，如下：") if chinese else (":", ":", ":", "?", ".", " -", "!", ";")
        )
        return f"{request}{colon}{rng.choice((' ', ' ', chr(10)) if not chinese else ('', '', chr(10), ' '))}{{l}}"
    if draw < 0.65:
        return rng.choice(("{l}\n", "{l}\n", "{l}. ", "{l} - ", "{l}: ", "{l}; ", "{l}\n\n")) + request + end
    lead = expand(rng, f"<list_lead{tail}>")
    colon = rng.choice(("：", ":", "，", "是", "有") if chinese else (":", ":", " are:", " -", " are", " is", " like"))
    stop = rng.choice(("。", "，", "\n", "；") if chinese else (". ", ". ", "\n", "; ", " - "))
    held = f"{lead}{colon}{'' if chinese else ' '}{{l}}"
    return f"{request}{stop}{held}{rng.choice(('', end))}" if draw < 0.82 else f"{held}{stop}{request}{end}"


def _template(rng: Random, *, sort: bool, chinese: bool) -> str:
    """A request with the hole {l}: put together, a frame, or deciding words amid chatter around the list."""
    draw = rng.random()
    if draw < 0.5:
        made = _composed(rng, sort=sort, chinese=chinese)
        return rough(rng, made) if draw < 0.35 else made
    if draw < 0.8:
        section = "sort" if sort else "reverse"
        return decorate(rng, phrase(rng, "word_lists", section, chinese=chinese), plain=0.6, blurred=0.2)
    cue = phrase(rng, "word_lists", "cues_sort" if sort else "cues_reverse", chinese=chinese)
    request = rough(rng, scatter(rng, [cue], chinese=chinese)).rstrip(":：")
    forms = ("{r}: {l}", "{r}\n{l}", "{l}\n{r}", "{l} - {r}", "{l}: {r}", "{l}. {r}", "{r}. {l}", "{r}? {l}")
    return rng.choice(forms).replace("{r}", request)


def word_list(rng: Random) -> Dialogue:
    """One list to sort or to reverse."""
    sort = rng.random() < 0.65
    chinese = rng.random() < 0.35
    count = rng.choices((2, 3, 4, 5, 6, 7, 8, 9, 10), weights=(2, 8, 9, 11, 12, 12, 13, 4, 4))[0]
    if not sort and chinese and rng.random() < 0.4:
        words = rng.sample(word("cjk_words"), count)
    else:
        words = random_words(rng, count)
    template = _template(rng, sort=sort, chinese=chinese)
    # Inside a sentence mostly commas keep the words of the list apart from the words around it.
    inline = not re.search(r"[:：?？.。!！;；，\n-] ?\{l\}|\{l\}\n", template)
    glue = rng.choices((", ", " ", "\n"), weights=(8, 1, 1))[0]
    listed = glue.join(words) if inline else join_items(rng, words, chinese=chinese)
    return turn(fill(template, l=listed), answer(words, sort=sort))
