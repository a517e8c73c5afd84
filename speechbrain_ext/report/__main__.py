"""Run the report: ``python -m speechbrain_ext.report RESULTS_FOLDER``.

Authors
 * The speechbrain_ext authors, 2026
"""

import sys

from speechbrain_ext.report.command import main

if __name__ == "__main__":
    sys.exit(main())
