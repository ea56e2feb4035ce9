"""What every daemon does to its process."""

from __future__ import annotations

import resource
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from katzentwist.node import tapbase

STATUS = Path("/proc/self/status")


def table_size() -> int:
    """For how many open files the kernel has room at once."""
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return int(lines["FDSize"])


class FileTableTests(SynchronousTestCase):
    """The kernel's table of open files."""

    def test_room(self) -> None:
        """It has its full size from the start, and nothing stays open for that."""
        if not STATUS.exists():
            raise SkipTest("the size of the table is shown by Linux only")
        before = len(list(Path("/proc/self/fd").iterdir()))
        tapbase._make_room_for_files()
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.assertGreaterEqual(table_size(), tapbase.MAX_FILES if soft < 0 else min(soft, tapbase.MAX_FILES))
        self.assertEqual(len(list(Path("/proc/self/fd").iterdir())), before)
