"""Bounded tables are looked at while something goes on: each keeps its bound, and is filled."""

from __future__ import annotations

from crabnet.bounded import BoundedTable


class Watch:
    """The tables that hang on some objects; each must keep its bound whenever ``look`` is called."""

    def __init__(self, *roots: object) -> None:
        self._roots = roots
        self.filled: set[str] = set()

    def look(self) -> None:
        seen: set[int] = set()
        todo = list(self._roots)
        while todo:
            owner = todo.pop()
            if id(owner) in seen:
                continue
            seen.add(id(owner))
            if isinstance(owner, BoundedTable):
                todo += owner.values()
            elif isinstance(owner, dict | list | tuple):
                todo += owner.values() if isinstance(owner, dict) else owner
            elif type(owner).__module__.startswith("crabnet."):
                slots = {name for each in type(owner).__mro__ for name in getattr(each, "__slots__", ())}
                for name in slots | vars(owner).keys() if hasattr(owner, "__dict__") else slots:
                    value = getattr(owner, name, None)
                    todo.append(value)
                    for table in value.values() if isinstance(value, dict) else (value,):
                        if isinstance(table, BoundedTable):
                            self._check(f"{type(owner).__name__}.{name}", table)

    def _check(self, name: str, table: BoundedTable[object, object]) -> None:
        assert table.weight <= table.capacity, name
        if table.weight > table.capacity * 3 // 4:
            self.filled.add(name)
