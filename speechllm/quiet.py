"""Libraries that are quiet for a whole command."""

import logging
import warnings

from transformers.utils import logging as hf_logging

# The last is torch's on what torchao registers with it.
LOGGERS = (
    "speechbrain",
    "peft",
    "huggingface_hub",
    "filelock",
    "torch.utils._pytree",
)


def quiet_libraries():
    """For a whole command: errors of libraries only, no bars of theirs."""
    warnings.simplefilter("ignore")
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
