"""``python -m speechbrain_ext.report.healing RUNS --output DIR``.

Authors
 * The speechbrain_ext authors, 2026
"""

import sys

from speechbrain_ext.report.healing.command import main

if __name__ == "__main__":
    sys.exit(main())
