"""Engines on a Ray cluster: one Serve replica each, found, fed and replaced by Ray Serve. See deploy/README.md."""
