"""pipeline(): the door that scripts come through; behind it an engine of your own, or the class's server.

    LMCOURSE_SERVER=http://lab-gpu:23333     one GPU answers a class of laptops
    LMCOURSE_SERVER_KEY=…                    if that server wants a key

Where the variable is set and no GPU is at hand, a model asked for by name is answered by the server, with the same
calls. Whatever cannot be the server's makes an engine here: engine settings, a template of one's own, a Path.

Lesson: 1 (where the model runs), 5 (the class's server)
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lmcourse.config import ChatTemplateConfig, TurbomindEngineConfig
from lmcourse.pipeline.pipe import Pipeline, load_pipeline
from lmcourse.pipeline.remote import RemotePipeline

__all__ = ["KEY_VARIABLE", "SERVER_VARIABLE", "class_server", "pipeline"]

SERVER_VARIABLE, KEY_VARIABLE = "LMCOURSE_SERVER", "LMCOURSE_SERVER_KEY"


def pipeline(
    model_path: str | Path | None = None,
    model_name: str | None = None,
    backend_config: TurbomindEngineConfig | None = None,
    chat_template_config: ChatTemplateConfig | None = None,
    log_level: str = "ERROR",
    **unknown: Any,
) -> Pipeline | RemotePipeline:
    """Load a model and its engine; model_path None is the course's model (LMCOURSE_MODEL, or tiny-chat).

    model_name names the chat template, not the model. Settings of the engine go into backend_config. Where
    LMCOURSE_SERVER is set and no GPU is here, a bare name is answered by that server.
    """
    own = (model_name, backend_config, chat_template_config)
    url = None if any(setting is not None for setting in own) or isinstance(model_path, Path) else class_server()
    if url is not None and not unknown:
        return RemotePipeline(
            url, os.environ.get(KEY_VARIABLE) or None, wanted=None if model_path is None else str(model_path)
        )
    return load_pipeline(model_path, model_name, backend_config, chat_template_config, log_level, **unknown)


def class_server() -> str | None:
    """The class's server, if one is named and this machine has no GPU that would do better."""
    url = os.environ.get(SERVER_VARIABLE, "").strip()
    if not url:
        return None
    import torch

    return None if torch.cuda.is_available() else url
