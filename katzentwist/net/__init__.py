"""Twisted protocols and endpoints around the cores of katzentwist.wire."""
