"""Pictures: from whatever a picture comes as to features that a language model reads like words.

images         load_image: path, bytes, URL, PIL picture → 8-bit RGB
  fetch          an http(s) URL, within limits
tiles          a picture → squares for the tower, and the order of their features
clip           ClipTower: squares → features
eyes           Eyes: what all models' have              eva_clip   EvaTower: another way to CLIP's layers
llava          LlavaEncoder: LLaVA 1.5 and 1.6
  llava_config   both layouts' configs → LlavaSpec      weights   their tensors → modules
xcomposer      XComposerEyes: EvaTower and a QFormer (qformer); xcomposer2: LLaVA's eyes at another size
deepseek_vl    DeepseekVlEncoder: SigLIP (siglip) alone, or beside SAM (sam); square: a picture → its squares
  deepseek_vl_folder   which reads either layout's config (_published, _converted, _spec) and tensors (_names)
qwen_vl        QwenVlEyes: ViT-bigG and a resampler; boxes: where things are, as its answers say it
loading        load_encoder: a folder → its encoder
"""

from lmcourse.vision.boxes import Box, draw_boxes, find_boxes, without_marks
from lmcourse.vision.images import load_image
from lmcourse.vision.llava import LlavaEncoder, LlavaPicture
from lmcourse.vision.loading import load_encoder

__all__ = [
    "Box",
    "LlavaEncoder",
    "LlavaPicture",
    "draw_boxes",
    "find_boxes",
    "load_encoder",
    "load_image",
    "without_marks",
]
