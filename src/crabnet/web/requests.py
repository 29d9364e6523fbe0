"""Reads the request of an operation from an HTTP request: path, query or body, and ``Idempotency-Key``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec
from msgspec import inspect as kinds

from crabnet import limits
from crabnet.errors import Reason, UsageError
from crabnet.operations.model import Operation, Request
from crabnet.protocol.canonical import JsonRefusedError, parse_object

_MEDIA_TYPE: Final = "application/json"
_REQUEST_ID: Final = "request_id"


def of_query(operation: Operation[Any, Any], path: Mapping[str, str], query: bytes) -> Request:
    """The request of an operation that reads. Raises UsageError."""
    try:
        pairs = parse_qsl(
            query.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(query),
            errors="strict",
            max_num_fields=limits.WEB_QUERY_FIELDS_MAX,
        )
    except (ValueError, UnicodeError) as error:
        raise UsageError(f"the query is malformed: {error}", Reason.MALFORMED) from None
    lists = _lists(_type_of(operation))
    given: dict[str, object] = {}
    for name, text in pairs:
        if name in path:
            raise UsageError(f"{name} is given by the path; leave it out of the query")
        if name in lists:
            found = given.setdefault(name, [])
            if isinstance(found, list):
                found += text.split(",") if text else []
        elif name in given:
            raise UsageError(f"{name} is given more than once")
        else:
            given[name] = text
    request = _converted(operation, {**given, **path}, strict=False)
    for name in given:
        if getattr(request, name) is None:  # msgspec takes the text "null" for null where no text is expected
            raise UsageError(f"{operation.name}: {name} has no value null; leave it out")
    return request


def of_body(
    operation: Operation[Any, Any], path: Mapping[str, str], query: bytes, headers: Mapping[str, str], body: bytes
) -> Request:
    """The request of an operation that writes. Raises UsageError."""
    if query:
        raise UsageError("this operation takes no query; give its fields as JSON in the body")
    given: dict[str, object] = {}
    if body:
        _demand_json(headers.get("content-type", ""))
        try:
            given = dict(parse_object(body, whole_floats=True)[0])
        except JsonRefusedError as error:
            raise UsageError(f"the body is not a JSON object: {error}", Reason.MALFORMED) from None
    for name in path:
        if name in given:
            raise UsageError(f"{name} is given by the path; leave it out of the body")
    key = idempotency_key(headers)
    if key is not None:
        if given.get(_REQUEST_ID) not in (None, key):
            raise UsageError("Idempotency-Key and request_id differ; give one of them", Reason.REQUEST_CONFLICT)
        given[_REQUEST_ID] = key
    return _converted(operation, {**given, **path}, strict=True)


def idempotency_key(headers: Mapping[str, str]) -> str | None:
    """The id that ``Idempotency-Key`` gives to a request. It may be in quotation marks, as its draft has it."""
    key = headers.get("idempotency-key")
    if key is not None and len(key) > 2 and key[0] == key[-1] == '"':
        return key[1:-1]
    return key


def _demand_json(content_type: str) -> None:
    media, _, parameters = content_type.partition(";")
    charset = parameters.strip().lower().replace('"', "")
    if media.strip().lower() != _MEDIA_TYPE or charset not in {"", "charset=utf-8"}:
        raise UsageError(
            f"the body must be JSON in UTF-8: set Content-Type to {_MEDIA_TYPE}", Reason.UNSUPPORTED_MEDIA_TYPE
        )


def _converted(operation: Operation[Any, Any], given: dict[str, object], *, strict: bool) -> Request:
    try:
        request = msgspec.convert(given, operation.request, strict=strict)
    except msgspec.ValidationError as error:
        raise UsageError(f"{operation.name}: {error}") from None
    if not isinstance(request, Request):
        raise TypeError(f"{operation.request.__name__} is not a Request")
    return request


@cache
def _lists(request: type[Request]) -> frozenset[str]:
    """The fields that hold lists. In a query such a field is repeated, or has commas."""
    info = kinds.type_info(request)
    if not isinstance(info, kinds.StructType):
        raise TypeError(f"{request.__name__} is not a Struct")
    return frozenset(
        field.encode_name for field in info.fields if isinstance(_bare(field.type), kinds.ListType | kinds.VarTupleType)
    )


def _bare(info: kinds.Type) -> kinds.Type:
    return _bare(info.type) if isinstance(info, kinds.Metadata) else info


def _type_of(operation: Operation[Any, Any]) -> type[Request]:
    found: type[Request] = operation.request
    return found
