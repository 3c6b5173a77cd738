"""/v1/models and /health: who is here, and whether it is well.

Lesson: 5 (is it there?)
"""

from __future__ import annotations

from fastapi import APIRouter

from lmcourse.serve.errors import REFUSALS
from lmcourse.serve.schema import HealthAnswer, ModelCard, ModelList
from lmcourse.serve.service import Service

__all__ = ["model_routes"]


def model_routes(service: Service) -> APIRouter:
    """The routes on a service."""
    router = APIRouter(tags=["Models"])

    def card(name: str) -> ModelCard:
        root, length = service.pipe.name, service.pipe.session_len
        return ModelCard(id=name, created=service.started_at, root=root, max_model_len=length)

    @router.get("/v1/models", responses={401: REFUSALS[401]})
    async def list_models() -> ModelList:
        """The names that `model` may have in a request."""
        return ModelList(data=[card(name) for name in service.model_names])

    @router.get("/v1/models/{model:path}", responses={401: REFUSALS[401], 404: REFUSALS[404]})
    async def describe_model(model: str) -> ModelCard:
        """One model."""
        service.check_model(model)
        return card(model)

    @router.get("/health")
    async def health() -> HealthAnswer:
        """Whether the server takes requests; needs no key."""
        return HealthAnswer(status="draining" if service.draining else "ok")

    return router
