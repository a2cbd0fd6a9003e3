"""The program ``ryla``, for a copy of the pack in which it is not installed.

python scripts/ryla.py loras list
"""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> None:
    # The package lies beside this folder and need not be installed; ComfyUI's portable Python looks nowhere by itself.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "custom_nodes"))
    from ryla_nodes.cli.script import run

    run(*sys.argv[1:])


if __name__ == "__main__":
    main()
