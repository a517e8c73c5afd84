"""Models as Hugging Face folders in half precision.

Authors
 * The speechbrain_ext authors, 2026
"""

import copy
import os
import shutil

from safetensors.torch import load_file


def save(model, tokenizer, folder):
    """Write a model in half precision; a killed save leaves the old one.

    Arguments
    ---------
    model : transformers.PreTrainedModel
        What to save.
    tokenizer : object
        Tokenizer or feature extractor that goes with it.
    folder : str
        Where to.
    """
    new = f"{folder}.new"
    shutil.rmtree(new, ignore_errors=True)
    # A copy, because the training goes on in full precision.
    copy.deepcopy(model).half().save_pretrained(new)
    tokenizer.save_pretrained(new)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(new, folder)


def load_weights(model, folder):
    """Fill a model with the weights that ``save`` wrote.

    Arguments
    ---------
    model : transformers.PreTrainedModel
        Of the same shape.
    folder : str
        The saved model.
    """
    model.load_state_dict(
        load_file(os.path.join(folder, "model.safetensors")), strict=False
    )
