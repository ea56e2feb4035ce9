"""Kaetzchen services: dispatch, built-in services, plugin processes."""
