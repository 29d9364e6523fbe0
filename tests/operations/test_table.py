"""The table of operations is whole, and the pages that derive from it are up to date."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from crabnet.node.operations import doors
from crabnet.node.operations.performing import performed, streamed
from crabnet.node.operations.reading import READERS
from crabnet.operations.describe import fields, structs_of
from crabnet.operations.document import control_markdown, python_table
from crabnet.operations.model import Alone, Operation, Scope, Writing
from crabnet.operations.table import BY_NAME, MODULES, OPERATIONS

DOCS = Path(__file__).parents[2] / "docs"
EACH = pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.name)
Any_ = Operation[Any, Any]


def test_names_and_routes_are_unique() -> None:
    assert len(BY_NAME) == len(OPERATIONS)
    assert max(Counter(operation.route for operation in OPERATIONS).values()) == 1
    types = Counter(struct.__name__ for struct in structs_of(OPERATIONS))
    assert max(types.values()) == 1, "schemas are named by their Structs"


def test_every_operation_has_one_function_and_every_function_an_operation() -> None:
    assert doors.perform is not None
    assert performed() | streamed() == set(BY_NAME)
    assert not performed() & streamed()
    assert streamed() == {operation.name for operation in OPERATIONS if operation.streams}


def test_what_the_files_can_answer_is_said() -> None:
    wanted = {operation.name for operation in OPERATIONS if operation.alone is Alone.READS} - {"config", "events.list"}
    assert set(READERS) == wanted


@EACH
def test_an_operation_that_writes_takes_a_request_id_and_needs_a_right(operation: Any_) -> None:
    assert issubclass(operation.request, Writing) == operation.writes
    assert not (operation.writes and operation.scope is Scope.READ)
    assert not operation.writes or operation.route.method == "POST"
    assert operation.writes or operation.route.method == "GET"


@EACH
def test_a_route_names_fields_of_the_request(operation: Any_) -> None:
    names = {field.name for field in fields(operation.request)}
    assert set(re.findall(r"{(\w+)}", operation.route.path)) <= names


@EACH
def test_types_are_structs_with_text(operation: Any_) -> None:
    assert issubclass(operation.request, msgspec.Struct)
    assert issubclass(operation.response, msgspec.Struct)
    assert operation.summary.endswith(".")
    assert operation.description.endswith(".")
    assert "\n" not in operation.summary
    assert (operation.response.__doc__ or "").strip()


def test_scopes_include_those_below() -> None:
    assert Scope.ADMIN.includes(Scope.OPERATE)
    assert Scope.OPERATE.includes(Scope.READ)
    assert not Scope.READ.includes(Scope.OPERATE)
    assert not Scope.OPERATE.includes(Scope.ADMIN)


def test_the_pages_are_up_to_date() -> None:
    assert (DOCS / "CONTROL.md").read_text(encoding="utf-8") == control_markdown(), "run scripts/write_reference.py"
    assert python_table() in (DOCS / "PYTHON.md").read_text(encoding="utf-8"), "run scripts/write_reference.py"


def test_every_operation_is_in_the_pages() -> None:
    control, python = control_markdown(), python_table()
    for module in MODULES:
        for value in vars(module).values():
            if isinstance(value, Operation):
                assert f"### {value.name}\n" in control
                assert f"| `{value.name}` |" in python
