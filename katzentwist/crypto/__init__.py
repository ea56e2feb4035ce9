"""Keys and primitives; the only package that imports nacl, cryptography or the native core."""
