"""One network for all tests of a class: trial knows no setUpClass."""

from __future__ import annotations

import atexit
import os
import sys
import unittest
from pathlib import Path
from typing import ClassVar

from twisted.trial.unittest import SynchronousTestCase

from tests.e2e.processes import LiveNetwork


def find_our_python() -> None:
    """Programs that begin with ``#!/usr/bin/env python3`` shall find the Python that runs the tests."""
    ours = str(Path(sys.executable).parent)
    if not os.environ["PATH"].startswith(ours):
        os.environ["PATH"] = os.pathsep.join([ours, os.environ["PATH"]])


class SharedNetworkCase(SynchronousTestCase):
    """The network is made for the first test and ends with the last one; with the program if only some are run."""

    net: ClassVar[LiveNetwork]
    _running: ClassVar[LiveNetwork | None] = None
    _left: ClassVar[int] = 0

    @classmethod
    def make(cls) -> LiveNetwork:
        """The files of the network, changed as the tests want them."""
        raise NotImplementedError

    def setUp(self) -> None:
        """Start the network if it does not run."""
        cls = type(self)
        if cls._running is None:
            find_our_python()
            net = cls.make()
            try:
                net.start()
            except BaseException:
                net.__exit__()
                raise
            cls.net = cls._running = net
            cls._left = len(unittest.defaultTestLoader.getTestCaseNames(cls))
            atexit.register(cls.end)
        cls._left -= 1

    def tearDown(self) -> None:
        """End the network after the last test."""
        if not type(self)._left:
            type(self).end()

    @classmethod
    def end(cls) -> None:
        """Nothing stays."""
        net, cls._running = cls._running, None
        if net is not None:
            atexit.unregister(cls.end)
            net.__exit__()
