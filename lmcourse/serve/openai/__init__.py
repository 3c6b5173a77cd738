"""LMDeploy's path to its client class, kept so that programs written for it need only another package name.

from lmcourse.serve.openai.api_client import APIClient
"""

from lmcourse.client import APIClient

__all__ = ["APIClient"]
