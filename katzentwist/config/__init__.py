"""Configuration files: TOML text in, checked attrs classes out."""
