"""Epochs, certificates, descriptors, documents, topology (spec: pki)."""
