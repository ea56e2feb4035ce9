"""``python -m katzentwist.cli`` is the ``katzentwist`` command."""

from katzentwist.cli.main import console

console()
