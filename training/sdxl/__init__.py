"""A small SDXL with InstantID that paints the drawn people."""
