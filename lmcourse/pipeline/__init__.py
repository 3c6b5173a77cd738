"""The front door for Python: text in, Responses out.

pipe        pipeline(), Pipeline
session     Session: a conversation
stream      AnswerStream: answers piece by piece
dispatcher  Dispatcher: one engine, many callers
"""

from lmcourse.pipeline.pipe import Pipeline, pipeline
from lmcourse.pipeline.session import Session
from lmcourse.pipeline.stream import AnswerStream

__all__ = ["AnswerStream", "Pipeline", "Session", "pipeline"]
