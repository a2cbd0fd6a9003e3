"""Install model files, and list, check or link them: the same program as ``ryla models``.

python scripts/install_models.py flux-dev --volume /volume
python scripts/install_models.py list
"""

from __future__ import annotations

import sys
from pathlib import Path

COMMANDS = ("check", "install", "link", "list", "remove", "show")


def main() -> None:
    # The package lies beside this folder and need not be installed; ComfyUI's portable Python looks nowhere by itself.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "custom_nodes"))
    from ryla_nodes.cli.script import run

    said = sys.argv[1:2] and sys.argv[1] in COMMANDS
    run("models", *([] if said else ["install"]), *sys.argv[1:])


if __name__ == "__main__":
    main()
