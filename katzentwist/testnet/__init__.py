"""A whole mix network on one machine."""
