"""ComfyUI's own node classes, as far as the shipped workflows use them: same names, inputs and results.

Each module lists its classes in ``NODES``.
"""
