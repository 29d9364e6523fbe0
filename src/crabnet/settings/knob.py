"""What a knob is: one row of the table of settings (``settings.knobs``)."""

from __future__ import annotations

from dataclasses import field
from typing import Final, TypeVar

from crabnet.settings.kinds import Kind

T = TypeVar("T")

SECRET_SHOWN: Final = "<secret>"  # noqa: S105 - what is shown in place of a secret


class Knob:
    """One row of the table. ``env``, ``toml`` or ``flag`` is None if the knob cannot be set from there.

    ``former_env`` is an older name of ``env``. A secret has no flag, because every user of the machine can read the
    arguments of a process.
    """

    __slots__ = ("default", "doc", "env", "flag", "former_env", "group", "kind", "name", "secret", "toml", "unit")

    def __init__(self, name: str, default: object, row: Row) -> None:
        self.name, self.default = name, default
        self.kind, self.group, self.doc = row.kind, row.group, row.doc
        self.unit, self.secret = row.unit, row.secret
        self.flag = None if row.secret else row.flag or "--" + name.replace("_", "-")
        self.toml = None if row.flag_only else name
        self.env = None if row.flag_only else "CRABNET_" + name.upper()
        self.former_env = row.former_env

    def shown(self, value: object) -> str:
        """The value for messages and documents. Of a secret only what its kind allows is shown."""
        if self.secret:
            return self.kind.masked(value) or SECRET_SHOWN
        if value is None:
            return "(unset)"
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, float):
            return f"{value:.6f}".rstrip("0").rstrip(".")
        if isinstance(value, tuple):
            return ",".join(str(item) for item in value)
        return str(value)


class Row:
    """What the table says of a knob, beside its name and its default."""

    __slots__ = ("doc", "flag", "flag_only", "former_env", "group", "kind", "secret", "unit")

    def __init__(
        self,
        kind: Kind,
        group: str,
        doc: str,
        *,
        unit: str = "",
        former_env: str | None = None,
        flag: str | None = None,
        secret: bool = False,
        flag_only: bool = False,
    ) -> None:
        self.kind, self.group, self.doc, self.unit = kind, group, doc, unit
        self.former_env, self.flag, self.secret, self.flag_only = former_env, flag, secret, flag_only


def knob_field(default: T, row: Row) -> T:
    """A dataclass field that carries its row of the table."""
    made: T = field(default=default, metadata={"row": row})
    return made
