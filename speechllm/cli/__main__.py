"""Run as ``python -m speechllm.cli``."""

import sys

from speechllm.cli import main

if __name__ == "__main__":
    sys.exit(main())
