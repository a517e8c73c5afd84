"""Run the report: ``python -m speechllm.report RESULTS_FOLDER``."""

import sys

from speechllm.report.command import main

if __name__ == "__main__":
    sys.exit(main())
