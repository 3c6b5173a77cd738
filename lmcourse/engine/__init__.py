"""The engine: requests in, tokens out (continuous batching over a paged KV cache).

name                    file
Request, RequestState   request.py     one sequence's life
BlockManager            blocks.py      which KV blocks are free
PrefixCache             prefix_cache.py which blocks hold what a request begins with
Scheduler, Plan, Chunk  scheduler.py   which tokens the next step computes
FirstComeQueue          queues.py      whose turn it is: first come, first served
FairQueue               fair_queue.py  the same for a class: whoever got least
Batch, make_batch       batch.py       the plan as tensors
KVCache                 kv_cache.py    the memory behind the blocks
ModelRunner             runner.py      plan in, tokens on their way out
RecordedSteps           recorded_steps.py  steps as graphs: decode_steps.py, decode_rows.py and prompt_steps.py
Graphs                  graphs.py      what was launched twice is recorded and replayed
Encoder, FeatureStore   features.py    pictures: their features in the place of tokens
Launch, Fetch           launch.py      a step under way, and its tokens' way to the host
SamplingRule            sampling.py    how a request samples
choose, Sampled         sampler.py     logits in, tokens out
StopRule, StopStrings   stops.py       when a request ends
Answer, StepOutput      answer.py      what it has said
Intake, Entry           intake.py      checks at the door
Event, EventLog         events.py      what happened, for the lessons
Steps                   steps.py       launch one step while another runs
Engine                  engine.py      the loop around all of it
EngineStats, AccountLoad stats.py      its sizes and load, by account too
Dispatcher              dispatcher.py  one engine, many callers
Home                    home.py        the one process that may use it
Quarantine              quarantine.py  which request breaks the step?
AsyncEngine             async_engine.py  the same for asyncio, on a thread of its own
TokenStream, Order      token_stream.py  one answer on its way to an asyncio task
"""

from lmcourse.engine.answer import Answer, StepOutput
from lmcourse.engine.async_engine import AsyncEngine
from lmcourse.engine.batch import Batch, make_batch
from lmcourse.engine.blocks import BlockManager
from lmcourse.engine.dispatcher import Dispatcher
from lmcourse.engine.engine import Engine
from lmcourse.engine.events import Event, EventLog
from lmcourse.engine.fair_queue import FairQueue
from lmcourse.engine.features import Encoder, FeatureStore
from lmcourse.engine.intake import Entry, Intake
from lmcourse.engine.kv_cache import KVCache
from lmcourse.engine.prefix_cache import NoPrefixCache, PrefixCache
from lmcourse.engine.queues import FirstComeQueue
from lmcourse.engine.request import Request, RequestState
from lmcourse.engine.runner import ModelRunner
from lmcourse.engine.sampler import Sampled, sample
from lmcourse.engine.sampling import SamplingRule, TokenMask
from lmcourse.engine.scheduler import Chunk, Plan, Scheduler
from lmcourse.engine.stats import AccountLoad, EngineStats
from lmcourse.engine.steps import Steps
from lmcourse.engine.stops import StopRule, StopStrings
from lmcourse.engine.token_stream import Order, TokenStream

__all__ = [
    "AccountLoad",
    "Answer",
    "AsyncEngine",
    "Batch",
    "BlockManager",
    "Chunk",
    "Dispatcher",
    "Encoder",
    "Engine",
    "EngineStats",
    "Entry",
    "Event",
    "EventLog",
    "FairQueue",
    "FeatureStore",
    "FirstComeQueue",
    "Intake",
    "KVCache",
    "ModelRunner",
    "NoPrefixCache",
    "Order",
    "Plan",
    "PrefixCache",
    "Request",
    "RequestState",
    "Sampled",
    "SamplingRule",
    "Scheduler",
    "StepOutput",
    "Steps",
    "StopRule",
    "StopStrings",
    "TokenMask",
    "TokenStream",
    "make_batch",
    "sample",
]
