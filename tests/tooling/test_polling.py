"""The tests wait for processes whatever the numbers of the pipes: a process that runs many tests may have high ones."""

from __future__ import annotations

import fcntl
import os
import resource

import pytest

from tests.support.polling import readable

_HIGH = 1_500


def test_a_descriptor_beyond_the_reach_of_select_is_waited_for() -> None:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] <= _HIGH:
        pytest.skip(f"this process may not have a descriptor above {_HIGH}: waiting for one is NOT tested")
    reader, writer = os.pipe()
    high = fcntl.fcntl(reader, fcntl.F_DUPFD, _HIGH)
    try:
        assert readable([high], 0) == []
        os.write(writer, b"x")
        assert readable([high], 10) == [high]
    finally:
        for each in (reader, writer, high):
            os.close(each)
