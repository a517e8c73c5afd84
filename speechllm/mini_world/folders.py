"""Models as Hugging Face folders in half precision."""

import copy
import os
import shutil

from safetensors.torch import load_file


def save(model, tokenizer, folder):
    """Write a model in half precision; a killed save leaves the old one."""
    new = f"{folder}.new"
    shutil.rmtree(new, ignore_errors=True)
    # A copy, because the training goes on in full precision.
    copy.deepcopy(model).half().save_pretrained(new)
    tokenizer.save_pretrained(new)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(new, folder)


def load_weights(model, folder):
    """Fill a model with the weights that ``save`` wrote."""
    model.load_state_dict(
        load_file(os.path.join(folder, "model.safetensors")), strict=False
    )
