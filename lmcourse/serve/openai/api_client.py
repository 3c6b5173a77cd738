"""LMDeploy 0.3.0's module of this name: its APIClient, which lives in lmcourse/client.

Lesson: 5 (talking to the server from Python)
"""

from __future__ import annotations

from lmcourse.client import APIClient

__all__ = ["APIClient"]
