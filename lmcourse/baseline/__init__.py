"""The transformers side of every comparison in the course.

name                                    file
AutoTokenizer, AutoModelForCausalLM     auto.py: what the lesson imports
InternLM2Config, InternLM2ForCausalLM   internlm2.py: InternLM2 on transformers' own Llama classes
SentencePieceTokenizer                  tokenizer.py: for folders without tokenizer.json
generate_ids                            generate.py: token ids in and out, for comparisons
ChatMixin                               chat.py: model.chat(tokenizer, query, history), model.cuda()
"""

from lmcourse.baseline.auto import AutoModelForCausalLM, AutoTokenizer
from lmcourse.baseline.chat import ChatMixin
from lmcourse.baseline.generate import generate_ids
from lmcourse.baseline.internlm2 import InternLM2Config, InternLM2ForCausalLM
from lmcourse.baseline.tokenizer import SentencePieceTokenizer

__all__ = [
    "AutoModelForCausalLM",
    "AutoTokenizer",
    "ChatMixin",
    "InternLM2Config",
    "InternLM2ForCausalLM",
    "SentencePieceTokenizer",
    "generate_ids",
]
