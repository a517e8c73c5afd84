"""Nothing here goes to the hub.

Authors
 * The speechbrain_ext authors, 2026
"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
