"""User and spool databases."""
