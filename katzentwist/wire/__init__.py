"""The link layer without I/O: handshake, records, commands (spec: link)."""
