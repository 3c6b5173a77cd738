"""Pictures for prompts, under the name that LMDeploy gave the module: `from lmcourse.vl import load_image`.

Lesson: 6 (the pipeline)
"""

from __future__ import annotations

from lmcourse.vision import load_image

__all__ = ["load_image"]
