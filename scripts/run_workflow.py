"""Run a workflow: the same program as ``ryla run``.

python scripts/run_workflow.py flux-dev --prompt "a red fox" -o fox.jpg
"""

from __future__ import annotations

import sys

from ryla_nodes.cli.app import main

if __name__ == "__main__":
    sys.argv.insert(1, "run")
    main()
