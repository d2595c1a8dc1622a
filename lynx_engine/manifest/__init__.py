"""Manifests: what someone wants rendered, read from YAML, CSV or JSON Lines."""
