"""lmcourse: a course on deploying large language models, and the inference engine that it opens up.

    from lmcourse import pipeline
    pipe = pipeline("tiny-chat")
    print(pipe(["Hi, pls intro yourself", "上海是"]))

Glossary, the only names for these:

    num_tokens         tokens in one step, of all requests, laid end to end
    hidden             width of the residual stream           intermediate   width inside the MLP
    num_heads          query heads                            num_kv_heads   key and value heads
    head_dim           width of one head                      vocab          rows of the embedding
    num_layers         transformer units                      max_context    tokens a model was trained for
    num_blocks         KV blocks in the cache                 tokens_per_block

A *block* is a KV block and nothing else; transformer units are *layers*.

Floors; a file imports from lower floors and from its own folder:

    10  __main__ cli authoring           5  vision client
     9  teach zoo homework               4  models text
     8  lite serve bench doctor          3  layers
     7  pipeline vl baseline             2  quant
     6  engine                           1  kernels
                                         0  config errors spec accounting bundled
"""

from lmcourse.bundled import model_path
from lmcourse.config import ChatTemplateConfig, GenerationConfig, Response, TurbomindEngineConfig
from lmcourse.pipeline import Pipeline, Session, pipeline

__all__ = [
    "ChatTemplateConfig",
    "GenerationConfig",
    "Pipeline",
    "Response",
    "Session",
    "TurbomindEngineConfig",
    "__version__",
    "model_path",
    "pipeline",
]

__version__ = "0.1.0"
