"""Describes operations and their types for people and for schemas: what the sources say about each field."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from functools import cache
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import NODEFAULT, Struct
from msgspec import inspect as kinds

from crabnet.operations.model import Operation


class Field(NamedTuple):
    """A field of a Struct."""

    name: str
    type: str
    required: bool
    default: str
    """As JSON; empty without a default."""
    text: str
    """What the source says about it; may be empty."""


@cache
def field_texts(struct: type[Struct]) -> dict[str, str]:
    """The docstrings below the fields of a Struct and of its bases, by field."""
    texts: dict[str, str] = {}
    for base in reversed(struct.__mro__):
        if base is not Struct and issubclass(base, Struct):
            texts |= _own_texts(base)
    return texts


def _own_texts(struct: type[Struct]) -> dict[str, str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(struct))).body[0]
    found: dict[str, str] = {}
    last = ""
    for node in tree.body if isinstance(tree, ast.ClassDef) else []:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            last = node.target.id
        elif last and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            found[last] = " ".join(str(node.value.value).split())
            last = ""
        else:
            last = ""
    return found


def fields(struct: type[Struct]) -> list[Field]:
    """The fields of a Struct, in order."""
    info = kinds.type_info(struct)
    if not isinstance(info, kinds.StructType):
        raise TypeError(f"{struct.__name__} is not a Struct")
    texts = field_texts(struct)
    return [
        Field(
            each.encode_name,
            _type_text(each.type),
            each.required,
            _default(each),
            texts.get(each.name, ""),
        )
        for each in info.fields
    ]


def _default(field: kinds.Field) -> str:
    if field.default is NODEFAULT or field.default is msgspec.UNSET:
        return "" if field.default_factory is NODEFAULT else "[]"
    return msgspec.json.encode(field.default).decode()


_PLAIN: Final[dict[type[kinds.Type], str]] = {
    kinds.StrType: "string",
    kinds.IntType: "integer",
    kinds.FloatType: "number",
    kinds.BoolType: "boolean",
    kinds.NoneType: "null",
    kinds.BytesType: "base64",
    kinds.AnyType: "any",
    kinds.RawType: "any",
}


def _type_text(info: kinds.Type) -> str:
    """The type as JSON has it, for people."""
    if isinstance(info, kinds.Metadata):
        return _type_text(info.type)
    if isinstance(info, kinds.UnionType):
        return " or ".join(_type_text(each) for each in info.types if not _is_unset(each))
    if isinstance(info, kinds.StructType):
        return info.cls.__name__
    if isinstance(info, kinds.EnumType):
        return " or ".join(f'"{member.value}"' for member in info.cls)
    if isinstance(info, kinds.DictType):
        return f"map of {_type_text(info.value_type)}"
    if isinstance(info, kinds.ListType | kinds.VarTupleType | kinds.SetType | kinds.FrozenSetType):
        return f"list of {_type_text(info.item_type)}"
    if isinstance(info, kinds.IntType) and (info.ge is not None or info.le is not None):
        return f"integer {'' if info.ge is None else info.ge} to {'' if info.le is None else info.le}"
    if isinstance(info, kinds.CustomType) and info.cls is object:
        return "any"
    return _PLAIN[type(info)]


def _is_unset(info: kinds.Type) -> bool:
    return isinstance(info, kinds.CustomType) and info.cls is msgspec.UnsetType


def structs_of(operations: tuple[Operation[Any, Any], ...]) -> list[type[Struct]]:
    """All Structs that answers contain, each once, in the order in which they are first met."""
    found: dict[type[Struct], None] = {}
    for operation in operations:
        _collect(kinds.type_info(operation.response), found)
    return list(found)


def contained(struct: type[Struct]) -> list[type[Struct]]:
    """A Struct and all Structs that it contains."""
    found: dict[type[Struct], None] = {}
    _collect(kinds.type_info(struct), found)
    return list(found)


def _collect(info: kinds.Type, found: dict[type[Struct], None]) -> None:
    if isinstance(info, kinds.StructType):
        if info.cls not in found:
            found[info.cls] = None
            for field in info.fields:
                _collect(field.type, found)
        return
    for inner in _inner(info):
        _collect(inner, found)


def _inner(info: kinds.Type) -> Iterator[kinds.Type]:
    if isinstance(info, kinds.Metadata):
        yield info.type
    elif isinstance(info, kinds.UnionType):
        yield from info.types
    elif isinstance(info, kinds.DictType):
        yield info.value_type
    elif isinstance(info, kinds.ListType | kinds.VarTupleType | kinds.SetType | kinds.FrozenSetType):
        yield info.item_type
