"""Talking with a server over HTTP: ours, or any with OpenAI's interface.

client        Client: a server with the pipeline's interface
api_client    APIClient: LMDeploy 0.3.0's class, method by method
interactive   InteractiveTalk: a conversation that the server keeps, by number
stream        RemoteStream: answers piece by piece
wire          a GenerationConfig → a request's fields, a chunk → pieces
connection    Connection: requests, streams, errors
  server_sent_events   bytes → events
background    EventLoop: coroutines for callers that have none
"""

from lmcourse.client.api_client import APIClient
from lmcourse.client.background import EventLoop
from lmcourse.client.client import Client
from lmcourse.client.connection import Connection
from lmcourse.client.interactive import InteractiveTalk
from lmcourse.client.stream import RemoteStream

__all__ = ["APIClient", "Client", "Connection", "EventLoop", "InteractiveTalk", "RemoteStream"]
