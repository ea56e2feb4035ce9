"""``python -m katzentwist`` is the ``katzentwist`` command."""

from katzentwist.cli.main import console

console()
