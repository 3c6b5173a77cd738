"""The front door for Python: text in, Responses out.

front       pipeline(): an engine of your own, or the class's server (remote: RemotePipeline)
pipe        Pipeline, load_pipeline; Session, a conversation, is text/session.py's
stream      AnswerStream: answers piece by piece
"""

from lmcourse.pipeline.front import class_server, pipeline
from lmcourse.pipeline.pipe import Pipeline, load_pipeline
from lmcourse.pipeline.remote import RemotePipeline
from lmcourse.pipeline.stream import AnswerStream
from lmcourse.text.session import Session

__all__ = ["AnswerStream", "Pipeline", "RemotePipeline", "Session", "class_server", "load_pipeline", "pipeline"]
