"""Run as ``python -m speechbrain_ext.cli``.

Authors
 * The speechbrain_ext authors, 2026
"""

import sys

from speechbrain_ext.cli import main

if __name__ == "__main__":
    sys.exit(main())
