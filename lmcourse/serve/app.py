"""make_app: the server as an ASGI application, put together from its parts.

    request ─→ CORS ─→ PlainPath ─→ Guard (key, content type, size) ─→ route ─→ Service ─→ AsyncEngine
                                          errors ←────────── in one form

Contract: the application serves a pipeline that somebody else made and closes; when it shuts down, what runs is
finished or returned as it is.

Lesson: 5 (the architecture)
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from lmcourse import __version__
from lmcourse.engine import AsyncEngine
from lmcourse.pipeline import Pipeline
from lmcourse.serve.chat import chat_routes
from lmcourse.serve.class_register import Register
from lmcourse.serve.class_routes import class_routes
from lmcourse.serve.completions import completion_routes
from lmcourse.serve.docs import add_docs
from lmcourse.serve.errors import add_error_handlers
from lmcourse.serve.guards import Guard
from lmcourse.serve.metrics import metrics_routes
from lmcourse.serve.models import model_routes
from lmcourse.serve.native import native_routes
from lmcourse.serve.paths import PlainPath
from lmcourse.serve.service import Service
from lmcourse.serve.settings import ServerSettings

__all__ = ["make_app", "service_of"]


def make_app(source: Pipeline | AsyncEngine, settings: ServerSettings | None = None) -> FastAPI:
    """The application for a pipeline, or for an AsyncEngine over one."""
    settings = settings or ServerSettings()
    service, register = Service(source, settings), Register(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await service.finish()

    app = FastAPI(
        title="lmcourse",
        version=__version__,
        description="A language model behind OpenAI's interface.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.service = service
    for routes in (chat_routes, completion_routes, native_routes, model_routes):
        app.include_router(routes(service))
    app.include_router(metrics_routes(service.metrics))
    app.include_router(class_routes(service, register.students))
    add_docs(app, service)
    add_error_handlers(app)
    app.add_middleware(Guard, settings=settings, register=register)
    app.add_middleware(PlainPath)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=list(settings.allow_origins),
        allow_credentials=settings.allow_credentials,
        allow_methods=list(settings.allow_methods),
        allow_headers=list(settings.allow_headers),
    )
    return app


def service_of(app: FastAPI) -> Service:
    """What the routes of an application share."""
    service: Service = app.state.service
    return service
