"""``python -m speechllm.report.healing RUNS --output DIR``."""

import sys

from speechllm.report.healing.command import main

if __name__ == "__main__":
    sys.exit(main())
