"""Run by ComfyUI before it imports anything large: begin to read the model files that RYLA_PREFETCH asks for."""

import importlib.util
import os
import sys
from pathlib import Path

# ComfyUI runs this as a file; the package, and what it needs, is not imported here.
if os.environ.get("RYLA_PREFETCH", "").strip() and "folder_paths" in sys.modules:
    _spec = importlib.util.spec_from_file_location(
        "_ryla_prefetch", Path(__file__).with_name("workflows") / "prefetch.py"
    )
    assert _spec is not None and _spec.loader is not None
    _prefetch = sys.modules[_spec.name] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(_prefetch)
    _known = sys.modules["folder_paths"].folder_names_and_paths
    _prefetch.start({_name: _entry[0] for _name, _entry in _known.items()})
