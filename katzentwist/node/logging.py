"""The log of a daemon: line format, levels, file, SIGHUP (spec: node 1.5 and 1.6).

A line is ``HH:MM:SS.mmm LEVL module: message``. twisted.logger has no NOTICE; a NOTICE is an info event that carries
``notice=True``, made by :func:`katzentwist.logger.notice`.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from twisted.logger import ILogObserver, LogLevel, formatEvent
from zope.interface import implementer

from katzentwist.config.common import Logging

_RANK = {"DEBUG": 0, "INFO": 1, "NOTICE": 2, "WARNING": 3, "ERROR": 4}
_WORD = {"DEBUG": "DEBU", "INFO": "INFO", "NOTICE": "NOTI", "WARNING": "WARN", "ERROR": "ERRO"}
_BY_TWISTED_LEVEL = {
    LogLevel.debug: "DEBUG",
    LogLevel.info: "INFO",
    LogLevel.warn: "WARNING",
    LogLevel.error: "ERROR",
    LogLevel.critical: "ERROR",
}


def level_of(event: dict[str, Any]) -> str:
    """The level of an event in the words of the configuration. Twisted's own chatter at info counts as DEBUG."""
    if event.get("notice"):
        return "NOTICE"
    level = _BY_TWISTED_LEVEL.get(event.get("log_level", LogLevel.info), "INFO")
    namespace = str(event.get("log_namespace", ""))
    if level == "INFO" and (namespace.startswith("twisted") or namespace in ("log_legacy", "-", "stdout", "stderr")):
        return "DEBUG"
    return level


@implementer(ILogObserver)
class LogFile:
    """A log observer that writes lines to a file or to standard output.

    :raises OSError: by the constructor and by :meth:`reopen`, if the file can not be opened.
    """

    def __init__(self, settings: Logging, stdout: TextIO | None = None) -> None:
        self._settings = settings
        self._threshold = _RANK[settings.level]
        self._stdout = stdout or sys.__stdout__
        self._stream: TextIO | None = None
        if not settings.disable:
            self.reopen()

    def reopen(self) -> None:
        """Close the file and open it again by name, so that a moved file is left behind; harmless without a file."""
        if self._settings.disable:
            return
        if not self._settings.file:
            self._stream = self._stdout
            return
        path = Path(self._settings.file)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        old, self._stream = self._stream, os.fdopen(descriptor, "a", encoding="utf-8", errors="backslashreplace")
        _close(old)

    def __call__(self, event: dict[str, Any]) -> None:
        """Write one event; a full disk or a closed pipe loses the line, never the daemon."""
        level = level_of(event)
        if self._stream is None or _RANK[level] < self._threshold:
            return
        try:
            self._stream.write(self._json(event, level) if self._settings.json else self._text(event, level))
            self._stream.flush()
        except (OSError, ValueError):
            return

    @staticmethod
    def _message(event: dict[str, Any]) -> str:
        text = formatEvent(event)
        failure = event.get("log_failure")
        if failure is not None:
            text = f"{text}\n{failure.getTraceback()}" if text else failure.getTraceback()
        return text

    def _text(self, event: dict[str, Any], level: str) -> str:
        now = event.get("log_time", time.time())
        stamp = time.strftime("%H:%M:%S", time.localtime(now)) + f".{int(now * 1000) % 1000:03d}"
        return f"{stamp} {_WORD[level]} {event.get('log_namespace', '-')}: {self._message(event)}\n"

    def _json(self, event: dict[str, Any], level: str) -> str:
        fields = {
            "time": event.get("log_time", time.time()),
            "level": level,
            "module": event.get("log_namespace", "-"),
            "message": self._message(event),
        }
        return json.dumps(fields, ensure_ascii=False) + "\n"

    def close(self) -> None:
        """Close the file, if there is one."""
        stream, self._stream = self._stream, None
        if stream is not self._stdout:
            _close(stream)


def _close(stream: TextIO | None) -> None:
    """Close a file, if it is one; what a full disk has not taken yet is lost."""
    if stream is not None:
        with contextlib.suppress(OSError):
            stream.close()
