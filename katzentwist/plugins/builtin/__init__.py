"""The services that need no program of their own."""
