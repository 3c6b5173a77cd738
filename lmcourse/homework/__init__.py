"""Exercises, their checks and hints: what a lesson's homework cells call.

exercise.py     Exercise, Case, Mistake: one exercise as data
registry.py     all exercises in the order of the lessons
check.py        check(id, answer) → Score: run an answer on fresh cases
compare.py      two values → None, or the difference in words
score.py        Score: a float that explains itself
hints.py        hint(id): the next of three hints
parameters.py   exercise 1.1, count the weights            Lesson: 1
greedy.py       exercise 1.2, generate by hand             Lesson: 1
wqkv.py         exercise 2.1, take a fused weight apart    Lesson: 2
chat_prompt.py  exercise 2.2, messages to one prompt       Lesson: 2
kv_bytes.py     exercise 3.1, what a conversation costs    Lesson: 3
block_allocator.py   exercise 3.2, hand out KV blocks      Lesson: 3
online_softmax.py    exercise 3.3, attention over blocks   Lesson: 3
event_stream.py      exercise 5.1, read a stream           Lesson: 5
batch_steps.py       exercise 5.2, static and continuous   Lesson: 5
serving_times.py     exercise 5.3, what the slowest feel   Lesson: 5
speedup.py           exercise 7.1, when a difference is one       Lesson: 7
decode_limit.py      exercise 7.2, the limit above the bar        Lesson: 7
expert_choice.py     exercise 8.1, be the router           Lesson: 8
fused_biases.py      exercise 8.2, Qwen2's biases          Lesson: 8
deployment.py   exercises 9.1 to 9.3, W4A16 and 0.4        Lesson: 9
engine_share.py      exercise 9.4, what the engine will take      Lesson: 9
command_line.py   a command line as an answer

student.py        where a student's work is kept             tasks.py      the tasks of lesson 9
progress_file.py  what was tried, and how it went            evidence.py   what was seen of a task
progress_view.py  progress() for notebook and terminal       collect.py    record(), record_command(), watch()
hand_in.py        notebooks and evidence → one zip
grading/          zips → points, CSV, HTML; its threat model
sandbox/          what runs in the process of an answer
"""

from __future__ import annotations

from lmcourse.homework.check import check
from lmcourse.homework.collect import record, record_command, watch
from lmcourse.homework.evidence import Evidence, read_evidence, tasks
from lmcourse.homework.exercise import Case, Exercise, Mistake
from lmcourse.homework.hints import Hint, hint
from lmcourse.homework.progress_view import Progress, progress
from lmcourse.homework.registry import EXERCISES, find_exercise
from lmcourse.homework.score import Score

__all__ = [
    "EXERCISES",
    "Case",
    "Evidence",
    "Exercise",
    "Hint",
    "Mistake",
    "Progress",
    "Score",
    "check",
    "find_exercise",
    "hint",
    "progress",
    "read_evidence",
    "record",
    "record_command",
    "tasks",
    "watch",
]
