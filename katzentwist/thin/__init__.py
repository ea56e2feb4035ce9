"""The thin client protocol and library (spec: client 8 to 16)."""
