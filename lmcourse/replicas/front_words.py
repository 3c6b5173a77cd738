"""The two words that a front says to its keeper, in a module of their own: the keeper imports no web framework.

Lesson: 5 (serving a class)
"""

__all__ = ["LOADED", "READY"]

LOADED = "loaded"  # would answer at once
READY = "ready"  # answers
