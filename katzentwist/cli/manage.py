"""``katzentwist manage``: the management dialogue of a running node, one-shot or interactive (design 2)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from katzentwist.cli.output import UsageFault, print_json
from katzentwist.management.console import Console, ConsoleError

COMMANDS = """
commands:
  ADD_USER NAME KEY              a new user; keys in hex or base64
  UPDATE_USER NAME KEY           another link key
  REMOVE_USER NAME               refused while an identity key is set
  SET_USER_IDENTITY NAME [KEY]   without KEY: remove it
  REMOVE_USER_IDENTITY NAME
  USER_IDENTITY NAME             print it
  USER_LINK NAME                 print the link key
  SEND_RATE N, SEND_BURST N      packets per minute, at once, per client; 0: no limit
  START_KAETZCHEN CAPABILITY, STOP_KAETZCHEN CAPABILITY
  SHUTDOWN                       end the node gracefully

Example: katzentwist manage ./net/provider1 ADD_USER alice ed307383f3fb7a5f...
"""


def add_parser(subparsers: Any) -> None:
    """The options."""
    parser = subparsers.add_parser(
        "manage",
        help="talk to the management socket of a running node",
        description="Send one command to a running node, or, without a command, those that are typed.",
        epilog=COMMANDS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print replies as JSON")
    parser.add_argument("socket", metavar="SOCKET", help="the socket, or the DataDir that holds it")
    words = parser.add_argument(
        "words", metavar="COMMAND", nargs=argparse.REMAINDER, help="a command with its arguments; none: a dialogue"
    )
    words.required = False  # argparse would name it where only SOCKET is missing
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Talk."""
    command = " ".join(args.words)
    if "\n" in command or "\r" in command:
        raise UsageFault("a command is one line")
    with Console(Path(args.socket)) as console:
        if command.strip():
            return 0 if _one(console, command, args.json) else 1
        return _dialogue(console, args.json)


def _one(console: Console, command: str, as_json: bool) -> bool:
    """Ask and print; whether it was done. SHUTDOWN has no reply, so no code is printed for it."""
    answer = console.ask(command)
    if answer is not None:
        _print(answer.code, answer.text, as_json)
        return answer.good
    if _word(command) != "SHUTDOWN":
        raise ConsoleError("the node closed the connection")
    _print(None, "the node shuts down", as_json)
    return True


def _word(command: str) -> str:
    return command.split(maxsplit=1)[0].upper()


def _print(code: int | None, text: str, as_json: bool) -> None:
    if as_json:
        print_json({"code": code, "text": text})
    else:
        print(text if code is None else f"{code} {text}", flush=True)


def _dialogue(console: Console, as_json: bool) -> int:
    """Lines of standard input, one by one; the status is that of the worst reply."""
    terminal = sys.stdin.isatty()
    if console.greeting is not None and terminal:
        _print(console.greeting.code, console.greeting.text, as_json)
    status = 0
    while True:
        if terminal:
            print("> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            return status
        if not line.strip():
            continue
        if not _one(console, line.strip(), as_json):
            status = 1
        if _word(line) in ("QUIT", "SHUTDOWN"):
            return status
