"""Libraries that are quiet while they load, and only then."""

import contextlib
import warnings

from transformers.utils import logging as hf_logging


@contextlib.contextmanager
def quiet_loading():
    """No progress bars, advice or load reports of transformers inside.

    What matters in a report is checked by who loads.
    """
    level = hf_logging.get_verbosity()
    bars = hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()
