"""The front door for Python: text in, Responses out.

pipe        pipeline(), Pipeline; Session, a conversation, is text/session.py's
stream      AnswerStream: answers piece by piece
"""

from lmcourse.pipeline.pipe import Pipeline, pipeline
from lmcourse.pipeline.stream import AnswerStream
from lmcourse.text.session import Session

__all__ = ["AnswerStream", "Pipeline", "Session", "pipeline"]
