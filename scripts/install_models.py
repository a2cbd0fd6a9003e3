"""Install model files: the same program as ``ryla models install``.

python scripts/install_models.py flux-dev --volume /volume
"""

from __future__ import annotations

import sys

from ryla_nodes.cli.app import main

if __name__ == "__main__":
    sys.argv[1:1] = ["models", "install"]
    main()
