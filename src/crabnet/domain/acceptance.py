"""The conditions that a publisher puts into a seed, by which everybody can judge its result (ADR 44)."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from crabnet import limits

Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class WantedFile(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """A file that the run must leave in its work dir, with this content."""

    name: Annotated[str, Meta(min_length=1, max_length=limits.RUNNER_FILE_NAME_BYTES_MAX)]
    sha256: Sha256


class Acceptance(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """The conditions of a seed. All that are given must hold. ``market.verdict`` judges by them.

    ``check`` is a command that the judge runs in its own sandbox. It gets the result's stdout on its stdin, and
    accepts the result by exit code 0.
    """

    exit_code: Annotated[int, Meta(ge=0, le=255)] | None = None
    stdout_sha256: Sha256 | None = None
    files: Annotated[tuple[WantedFile, ...], Meta(max_length=limits.ACCEPTANCE_FILES_MAX)] = ()
    duration_ms_max: Annotated[int, Meta(ge=1)] | None = None
    check: Annotated[str, Meta(min_length=1, max_length=limits.CHECK_CHARS_MAX)] | None = None
