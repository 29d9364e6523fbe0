"""Generates the OpenAPI document (3.1) of the HTTP API from the table of operations."""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final, TypeAlias

import msgspec

from crabnet._version import __version__
from crabnet.errors import Reason
from crabnet.operations.access import Session
from crabnet.operations.describe import contained, field_texts, fields, structs_of
from crabnet.operations.model import COMMON, Operation, Writing
from crabnet.operations.problems import EVERYWHERE, MEDIA_TYPE, RETRY_AFTER_S, STATUS, Problem
from crabnet.operations.table import OPERATIONS

Json: TypeAlias = dict[str, Any]

_REF: Final = "#/components/schemas/{name}"
_PATH_FIELD: Final = re.compile(r"{(\w+)}")
_BASE64: Final = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
_OF_ALL: Final = EVERYWHERE | {Reason.UNAUTHENTICATED, Reason.FORBIDDEN}
_OF_BODIES: Final = frozenset({Reason.UNSUPPORTED_MEDIA_TYPE, Reason.TOO_LARGE})
_BODY_LATE: Final = 408
_HEADERS_LONG: Final = 431
_DESCRIPTION: Final = """\
The operations of a Crabnet node over HTTP. They are those of its control socket, with the same names, types and Reasons.

Each answer that is not a success is a problem document (RFC 9457). Its `type` is `urn:crabnet:problem:` and a Reason; docs/PROBLEMS.md
explains them. Requests that write may be repeated with the same `Idempotency-Key`. Streams are server-sent events; `Last-Event-ID` continues
them. All paths also work without `/v1`."""
_JSON_VALUE: Final[Json] = {
    "description": "JSON without numbers that have a fraction.",
    "anyOf": [
        {"type": ["string", "integer", "boolean", "null"]},
        {"type": "array", "items": {"$ref": _REF.format(name="JsonValue")}},
        {"type": "object", "additionalProperties": {"$ref": _REF.format(name="JsonValue")}},
    ],
}


def openapi_json() -> bytes:
    """The document as JSON, in a fixed order."""
    return msgspec.json.format(msgspec.json.encode(openapi(), order="deterministic"), indent=1) + b"\n"


def openapi() -> Json:
    """The document."""
    paths: Json = {}
    for operation in OPERATIONS:
        path = paths.setdefault("/api/v1" + operation.route.path, {})
        path[operation.route.method.lower()] = _operation(operation)
    paths["/api/v1/openapi.json"] = {"get": _own()}
    paths["/api/v1/session"] = {"get": _session()}
    paths["/metrics"] = {"get": _metrics()}
    for path, summary in _PUBLIC.items():
        paths[path] = {"get": _public(path, summary)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Crabnet",
            "version": __version__,
            "description": _DESCRIPTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}, {"token": []}],
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "token": {"type": "apiKey", "in": "header", "name": "X-Api-Token"},
            },
        },
    }


_PUBLIC: Final = {
    "/health": "Say ok if the node answers.",
    "/livez": "Say ok if the node answers.",
    "/readyz": "Say ok if the node is fit to work.",
}


def _operation(operation: Operation[Any, Any]) -> Json:
    content: Json = {"schema": {"$ref": _REF.format(name=operation.response.__name__)}}
    media = "application/json"
    if operation.streams:
        media, content = "text/event-stream", {"schema": {"type": "string"}}
    described: Json = {
        "operationId": operation.name,
        "tags": [operation.route.path.split("/")[1]],
        "summary": operation.summary,
        "description": _text(operation),
        "parameters": [*_parameters(operation)],
        "responses": {
            "200": {"description": _plain(operation.response.__doc__), "content": {media: content}},
            **_refusals(
                operation.all_reasons | _OF_ALL | {Reason.NOT_FOUND} | (_OF_BODIES if operation.writes else set())
            ),
        },
        "x-crabnet-scope": operation.scope.value,
    }
    if operation.proves_itself:
        described["security"] = []
    if operation.streams:
        described["x-crabnet-item"] = {"$ref": _REF.format(name=operation.response.__name__)}
    elif operation.writes:
        schema = _body(operation)
        described["requestBody"] = {
            "required": "required" in schema,
            "content": {"application/json": {"schema": schema}},
        }
        described["responses"][str(_BODY_LATE)] = _refusal(_BODY_LATE, [Reason.TIMEOUT])
    else:
        described["responses"]["304"] = {"description": "The client has this answer already (`If-None-Match`)."}
    return described


def _text(operation: Operation[Any, Any]) -> str:
    parts = [operation.description, f"Needs the scope `{operation.scope.value}`."]
    if operation.streams:
        parts.append(
            f"Each event has a {operation.response.__name__} as its data. At the end comes an event `end`; a stream"
            " that fails ends with an event `problem`."
        )
    return " ".join(parts)


def _own() -> Json:
    return {
        "operationId": "openapi",
        "tags": ["openapi.json"],
        "summary": "Show this document.",
        "description": "It describes the operations of the running node. Needs the scope `read`.",
        "responses": {
            "200": {"description": "This document.", "content": {"application/json": {"schema": {"type": "object"}}}},
            "304": {"description": "The client has this answer already (`If-None-Match`)."},
            **_refusals(_OF_ALL),
        },
        "x-crabnet-scope": "read",
    }


def _session() -> Json:
    return {
        "operationId": "session",
        "tags": ["session"],
        "summary": "Show what the token of this request allows.",
        "description": "Needs the scope `metrics`, which every token has.",
        "responses": {
            "200": {
                "description": _plain(Session.__doc__),
                "content": {"application/json": {"schema": {"$ref": _REF.format(name=Session.__name__)}}},
            },
            "304": {"description": "The client has this answer already (`If-None-Match`)."},
            **_refusals(_OF_ALL),
        },
        "x-crabnet-scope": "metrics",
    }


def _metrics() -> Json:
    return {
        "operationId": "prometheus",
        "tags": ["metrics"],
        "summary": "Show the metrics for Prometheus.",
        "description": "As text or as OpenMetrics. They have an address of their own if `metrics_addr` is set. Needs the scope `metrics`.",
        "responses": {
            "200": {
                "description": "The metrics of the node and of the web process.",
                "content": {
                    "text/plain": {"schema": {"type": "string"}},
                    "application/openmetrics-text": {"schema": {"type": "string"}},
                },
            },
            **_refusals(_OF_ALL | COMMON | {Reason.NOT_FOUND}),
        },
        "x-crabnet-scope": "metrics",
    }


def _public(path: str, summary: str) -> Json:
    return {
        "operationId": path.removeprefix("/"),
        "tags": ["health"],
        "summary": summary,
        "description": "Public: it needs no token.",
        "security": [],
        "responses": {
            "200": {"description": "ok", "content": {"text/plain": {"schema": {"type": "string", "const": "ok"}}}},
            **_refusals(EVERYWHERE | {Reason.NODE_UNREACHABLE, Reason.TIMEOUT, Reason.UNAVAILABLE}),
        },
    }


# --- what is sent ------------------------------------------------------------------------------------------------


def _parameters(operation: Operation[Any, Any]) -> Iterable[Json]:
    in_path = set(_PATH_FIELD.findall(operation.route.path))
    schemas = _raw_schemas([operation.request])[operation.request.__name__]["properties"]
    for field in fields(operation.request):
        schema = schemas[field.name]
        parameter: Json = {"name": field.name, "in": "query", "schema": _without_null(schema)}
        if field.text:
            parameter["description"] = field.text
        if field.name in in_path:
            yield {**parameter, "in": "path", "required": True, "schema": {"minLength": 1, **_without_null(schema)}}
        elif not operation.writes:
            yield {**parameter, "required": field.required}
    if operation.writes:
        text = "Names this request, like `request_id`. A repetition gets the first answer and changes nothing."
        schema = _without_null(_raw_schemas([Writing])[Writing.__name__]["properties"]["request_id"])
        yield {"name": "Idempotency-Key", "in": "header", "required": False, "description": text, "schema": schema}
    if operation.resume is not None:
        text = f"Continues after this event. It takes the place of `{operation.resume.field}`."
        inner = _without_null(schemas[operation.resume.field])
        yield {"name": "Last-Event-ID", "in": "header", "required": False, "description": text, "schema": inner}


def _without_null(schema: Json) -> Json:
    """The schema of a value that a path, query or header can hold."""
    found = {name: value for name, value in schema.items() if name != "default" or value is not None}
    if "anyOf" in found:
        options = [each for each in found.pop("anyOf") if each != {"type": "null"}]
        found |= options[0] if len(options) == 1 else {"anyOf": options}
    return found


def _body(operation: Operation[Any, Any]) -> Json:
    """The object of a request that writes, without what the path holds."""
    in_path = set(_PATH_FIELD.findall(operation.route.path))
    name = operation.request.__name__
    schema = dict(_raw_schemas([operation.request])[name])
    schema["properties"] = {key: value for key, value in schema["properties"].items() if key not in in_path}
    schema["required"] = [key for key in schema.get("required", []) if key not in in_path]
    if not schema["required"]:
        del schema["required"]
    return {key: value for key, value in schema.items() if key != "title"}


# --- what is answered ----------------------------------------------------------------------------------------------


def _refusals(reasons: Iterable[Reason]) -> Json:
    by_status: dict[int, list[Reason]] = {_HEADERS_LONG: [Reason.TOO_LARGE]}
    for reason in sorted(reasons):
        by_status.setdefault(STATUS[reason], []).append(reason)
    return {str(status): _refusal(status, found) for status, found in sorted(by_status.items())}


def _refusal(status: int, reasons: list[Reason]) -> Json:
    found: Json = {
        "description": f"{HTTPStatus(status).phrase}: {', '.join(f'`{reason.value}`' for reason in reasons)}",
        "content": {MEDIA_TYPE: {"schema": {"$ref": _REF.format(name=Problem.__name__)}}},
    }
    if status in RETRY_AFTER_S:
        found["headers"] = {"Retry-After": {"required": True, "schema": {"type": "integer", "minimum": 1}}}
    if status == HTTPStatus.UNAUTHORIZED:
        found["headers"] = {"WWW-Authenticate": {"required": True, "schema": {"type": "string"}}}
    return found


def _schemas() -> Json:
    structs = [*structs_of(OPERATIONS), Problem, Session]
    schemas = _raw_schemas([*structs, *(operation.request for operation in OPERATIONS)])
    # Bodies are written where they are used, without what the path holds.
    for operation in OPERATIONS:
        schemas.pop(operation.request.__name__, None)
    return {**schemas, "JsonValue": _JSON_VALUE}


def _raw_schemas(structs: Iterable[Any]) -> Json:
    """The schemas of Structs and of what they contain, with the texts of their fields."""
    listed = list(structs)
    _, schemas = msgspec.json.schema_components(listed, schema_hook=_hook, ref_template=_REF)
    texts = {struct.__name__: field_texts(struct) for each in listed for struct in contained(each)}
    for name, schema in schemas.items():
        _mended(schema)
        for field, text in texts.get(name, {}).items():
            if field in schema.get("properties", {}):
                schema["properties"][field] = {"description": text, **schema["properties"][field]}
        if "description" in schema:
            schema["description"] = _plain(schema["description"])
    return schemas


def _hook(found: type) -> Json:
    if found is object:
        return {"$ref": _REF.format(name="JsonValue")}
    raise NotImplementedError


def _mended(schema: Any) -> None:
    """Say in JSON Schema what msgspec leaves to Python."""
    if isinstance(schema, list):
        for each in schema:
            _mended(each)
    if not isinstance(schema, dict):
        return
    if schema.get("contentEncoding") == "base64":
        schema["pattern"] = _BASE64
    elif "pattern" in schema:
        schema["pattern"] = schema["pattern"].replace(r"\Z", "$")
    for value in schema.values():
        _mended(value)


def _plain(text: str | None) -> str:
    return " ".join((text or "").split()).replace("``", "`")
