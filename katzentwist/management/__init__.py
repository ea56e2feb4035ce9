"""The line-based management socket (spec: node 9, provider 7)."""
