"""Sphinx packets: geometry, building, unwrapping, SURBs, paths and delays (spec: sphinx)."""
