"""Engines on a Ray cluster: one Serve replica each, found, fed and replaced by Ray Serve. See deploy/ray/README.md."""

import os

# Read when Ray is imported. A thread of its own for the queue costs a job several milliseconds, and gains nothing here.
os.environ.setdefault("RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP", "0")
