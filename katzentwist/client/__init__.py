"""The client core and the client daemon (spec: client)."""
