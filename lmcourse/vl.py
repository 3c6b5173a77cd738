"""Pictures for prompts, under the name that LMDeploy gave the module: `from lmcourse.vl import load_image`.

And what a model that sees says of them: find_boxes and draw_boxes read Qwen-VL's <ref> and <box>.

Lesson: 6 (the pipeline)
"""

from __future__ import annotations

from lmcourse.vision import Box, draw_boxes, find_boxes, load_image, without_marks

__all__ = ["Box", "draw_boxes", "find_boxes", "load_image", "without_marks"]
