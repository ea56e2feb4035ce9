"""The Katzenpost mix network in Python and Twisted."""

__version__ = "0.1.0"
