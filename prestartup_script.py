"""A clone of this repository is itself the node pack: its prestartup lies where the pack does."""

import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parent / "custom_nodes" / "ryla_nodes" / "prestartup_script.py"))
