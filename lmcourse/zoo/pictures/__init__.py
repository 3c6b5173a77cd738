"""What tiny-llava was made from: scenes, their drawings, their words, and the model that learns from both.

vocabulary.py  what can be seen, in two languages   scene.py      things on a background; what is kept back
outlines.py    distances to all outlines            draw.py       scenes → pixels, many at once
captions.py    a scene in words, and back           questions.py  questions that a scene answers
answers.py     what it says of itself               conversation.py  turns → rows of tokens
batches.py     rows of one length                   sizes.py      how large everything is
calibration.py words for 4-bit weights
eye.py         vision transformer and projector     model.py      the whole, and a way to ask it
files.py       the LLaVA-1.5 layout on disk
"""

from __future__ import annotations

from lmcourse.zoo.pictures.captions import scene_of
from lmcourse.zoo.pictures.draw import picture
from lmcourse.zoo.pictures.scene import Scene, Thing, new_scene, scene

__all__ = ["Scene", "Thing", "new_scene", "picture", "scene", "scene_of"]
