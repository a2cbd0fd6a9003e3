"""Tests that take a minute each, and are run by hand: with ``RYLA_TEST_LONG`` set to anything."""

from __future__ import annotations

import os

import pytest

long = pytest.mark.skipif(
    not os.environ.get("RYLA_TEST_LONG"), reason="Does not apply: it takes a minute, and RYLA_TEST_LONG is not set."
)
