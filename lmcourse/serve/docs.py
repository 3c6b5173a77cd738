"""The page at /: what can be asked and how, made from our own OpenAPI schema.

The idea: one file with everything in it, no address but relative ones. So it shows the same on a machine without a
network and behind a proxy's prefix (/user/me/proxy/23333/), and its forms ask the server that it came from.

Lesson: 5 (the docs page)
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html import escape
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.responses import HTMLResponse

from lmcourse.serve.docs_style import SCRIPT, STYLE
from lmcourse.serve.service import Service

__all__ = ["add_docs", "make_page", "make_schema"]

_QUESTION = [{"role": "user", "content": "Hi, pls intro yourself"}]
_EXAMPLES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": _QUESTION, "stream": True},
    "/v1/completions": {"prompt": "Shanghai is", "max_tokens": 16},
    "/v1/encode": {"input": "Hi, pls intro yourself"},
    "/v1/chat/interactive": {"prompt": "Hi, pls intro yourself", "session_id": 1, "interactive_mode": True},
}


def add_docs(app: FastAPI, service: Service) -> None:
    """The page, and the schema it is made from at /openapi.json."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = make_schema(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]

    @app.get("/", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(make_page(openapi(), service.model_names[0]))


def make_schema(app: FastAPI) -> dict[str, Any]:
    """FastAPI's schema with our 400 in place of its 422, and examples."""
    schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    for path, method, operation in _operations(schema):
        operation["responses"].pop("422", None)
        if method == "post":
            content = operation["requestBody"]["content"]["application/json"]
            model = {"model": "tiny-chat"} if "completions" in path else {}
            content["example"] = {**model, **_EXAMPLES[path]}
    for unused in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(unused, None)
    return schema


def _operations(schema: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def make_page(schema: dict[str, Any], model: str) -> str:
    """The whole page."""
    sections = [_section(schema, path, method, operation, model) for path, method, operation in _operations(schema)]
    links = [f'<a href="#{_anchor(path)}">{escape(path)}</a>' for path, _, _ in _operations(schema)]
    title = f"{escape(schema['info']['title'])}: {escape(model)}"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{title}</title><style>{STYLE}</style></head><body><main>"
        f"<h1>{title}</h1><p>{escape(schema['info']['description'])} Clients for OpenAI work with it: give them "
        '<code id="base"></code> as base URL. The schema of this page: <a href="openapi.json">openapi.json</a>.</p>'
        f"<nav>{' '.join(links)}</nav>"
        '<p><label>Key, if this server wants one <input id="key" type="password" autocomplete="off"></label></p>'
        f"{''.join(sections)}</main><script>{SCRIPT}</script></body></html>"
    )


def _anchor(path: str) -> str:
    return path.strip("/").replace("/", "-").replace("{", "").replace("}", "")


def _section(schema: dict[str, Any], path: str, method: str, operation: dict[str, Any], model: str) -> str:
    body = operation.get("requestBody")
    parts = [
        f'<section id="{_anchor(path)}"><h2><b class="{method}">{method.upper()}</b> {escape(path)}</h2>',
        f"<p>{_prose(operation.get('description', ''))}</p>",
    ]
    if body is not None:
        content = body["content"]["application/json"]
        parts += [_fields(schema, content["schema"]), _form(path, {**content["example"], **_model(content, model)})]
    else:
        parts.append(_form(path.replace("{model}", model), None))
    parts.append(_answers(operation["responses"]))
    return "".join([*parts, "</section>"])


def _prose(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _model(content: dict[str, Any], model: str) -> dict[str, str]:
    return {"model": model} if "model" in content["example"] else {}


def _form(path: str, example: dict[str, Any] | None) -> str:
    """A request that can be edited and sent, and the same for a shell."""
    place = escape(path.lstrip("/"), quote=True)
    text = "" if example is None else json.dumps(example, ensure_ascii=False, indent=1)
    area = "" if example is None else f'<textarea rows="{text.count(chr(10)) + 1}">{escape(text)}</textarea>'
    command = f"curl BASE/{path.lstrip('/')}" + (
        ""
        if example is None
        else f" -H 'Content-Type: application/json' -d '{json.dumps(example, ensure_ascii=False)}'"
    )
    return (
        f'<form data-path="{place}">{area}<button>Ask</button><pre hidden></pre></form>'
        f'<pre class="curl">{escape(command)}</pre>'
    )


def _answers(responses: dict[str, Any]) -> str:
    rows = [
        f"<tr><td>{status}</td><td>{escape(answer['description'])}</td></tr>" for status, answer in responses.items()
    ]
    return f"<details><summary>Answers</summary><table>{''.join(rows)}</table></details>"


def _fields(schema: dict[str, Any], part: dict[str, Any]) -> str:
    """A request's fields as a table, the required ones first."""
    model = _resolve(schema, part)
    required = model.get("required", [])
    rows = [
        f"<tr><td><code>{escape(name)}</code>{' *' if name in required else ''}</td>"
        f"<td>{escape(_type(schema, field))}</td><td>{_prose(field.get('description', ''))}</td></tr>"
        for name, field in sorted(model["properties"].items(), key=lambda item: item[0] not in required)
    ]
    head = "<tr><th>field (* required)</th><th>type</th><th></th></tr>"
    return f"<details><summary>Fields</summary><table>{head}{''.join(rows)}</table></details>"


def _resolve(schema: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    name = part.get("$ref", "").rpartition("/")[2]
    found: dict[str, Any] = schema["components"]["schemas"][name] if name else part
    return found


def _type(schema: dict[str, Any], field: dict[str, Any]) -> str:
    """A field's type in a few words."""
    if "anyOf" in field:
        kinds = (_type(schema, option) for option in field["anyOf"] if option.get("type") != "null")
        return " | ".join(dict.fromkeys(kinds)) or "null"
    if "$ref" in field:
        return str(field["$ref"].rpartition("/")[2])
    if "enum" in field:
        return " | ".join(map(json.dumps, field["enum"]))
    if field.get("type") == "array":
        return f"list of {_type(schema, field.get('items', {}))}"
    limits = [f"{sign} {field[key]:g}" for key, sign in _LIMITS.items() if key in field and abs(field[key]) < 2**31 - 1]
    return ", ".join([str(field.get("type", "anything")), *limits])


_LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤"}
