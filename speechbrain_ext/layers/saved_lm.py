"""Save a causal LM so that transformers 4 reads what transformers 5 reads.

transformers 5 writes only its own spelling of the rotary embedding and of the
tokenizer's class. Version 4, which vLLM and llama.cpp's converter long built
on, then takes its defaults without a word: theta 10,000, no scaling. Here
both spellings are written; either version gives the same logits and tokens.
"""

from __future__ import annotations

import json
import logging
import os

from transformers import (
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from speechbrain_ext.layers.families import OLD_ROPE, old_rope
from speechbrain_ext.runs.files import usual_rights, write_json

logger = logging.getLogger(__name__)

SHARD = "5GB"


def load_tokenizer(
    source: str, revision: str | None = None
) -> PreTrainedTokenizerBase:
    """A model's tokenizer; refused where it has none.

    transformers 5 gives a folder without a tokenizer an empty one of the
    model's kind, without a word: any text becomes no tokens at all.

    Arguments
    ---------
    source : str
        Hub id or local folder of the model.
    revision : str or None
        Branch, tag or commit on the hub.

    Returns
    -------
    transformers.PreTrainedTokenizerBase

    Raises
    ------
    ValueError
        If the tokenizer has no tokens but special ones, or cannot be made.
    """
    why = ""
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source, revision=revision, trust_remote_code=False
        )
        if len(tokenizer) > len(set(tokenizer.all_special_tokens)):
            # Some settings are looked at when there is a text.
            tokenizer("a")
            return tokenizer
    except Exception as error:  # a damaged one fails in many ways
        why = f" ({str(error) or type(error).__name__:.300})"
    raise ValueError(
        f"{source}: has no tokenizer: copy tokenizer.json and "
        "tokenizer_config.json there from the model that it was made of, or "
        "save it again with speechbrain_ext.layers.save_pruned, which writes "
        f"both{why}"
    )


def save_pruned(
    lm: PreTrainedModel,
    folder: str,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> None:
    """Write a pruned causal LM with its tokenizer, for transformers 5 and 4.

    Arguments
    ---------
    lm : transformers.PreTrainedModel
        What `load_pruned` or `drop_layers` gave.
    folder : str
        Where to.
    tokenizer : transformers.PreTrainedTokenizerBase or None
        Its tokenizer; None: that of the model's source.

    Raises
    ------
    ValueError
        If no tokenizer is given, and the source has none or is not known.
        Nothing is written then.

    Example
    -------
    >>> import os, tempfile
    >>> from speechbrain_ext.layers import Block, load_pruned
    >>> from speechbrain_ext.tiny_models import tiny_decoder
    >>> lm = load_pruned(tiny_decoder(), Block(1, 2))
    >>> folder = tempfile.mkdtemp()
    >>> save_pruned(lm, folder)
    >>> os.path.isfile(os.path.join(folder, "tokenizer.json"))
    True
    """
    if tokenizer is None:
        if not lm.name_or_path:
            raise ValueError(
                "save_pruned: the model does not say where it came from: "
                "give its tokenizer"
            )
        tokenizer = load_tokenizer(lm.name_or_path)
    save_causal_lm(lm, tokenizer, folder)


def save_causal_lm(lm, tokenizer, folder, shard_size=SHARD):
    """Write a causal LM and its tokenizer as a plain Hugging Face folder.

    Arguments
    ---------
    lm : transformers.PreTrainedModel
        The causal LM.
    tokenizer : transformers.PreTrainedTokenizerBase
        Its tokenizer.
    folder : str
        Where to.
    shard_size : str
        Largest file of weights.
    """
    lm.save_pretrained(folder, max_shard_size=shard_size)
    describe_causal_lm(lm, tokenizer, folder)
    usual_rights(folder)


def describe_causal_lm(lm, tokenizer, folder):
    """Write what stands beside the weights: all but them of `save_causal_lm`.

    A model without memory (of the meta device) will do.
    """
    if not os.path.isfile(os.path.join(folder, "config.json")):
        lm.config.architectures = [type(lm).__name__]
        lm.config.dtype = str(lm.dtype).removeprefix("torch.")
        lm.config.save_pretrained(folder)
        if lm.can_generate():
            lm.generation_config.save_pretrained(folder)
    path = os.path.join(folder, "config.json")
    content = {k: v for k, v in _read(path).items() if k not in OLD_ROPE}
    old = old_rope(lm.config)
    if not old and content.get("rope_parameters"):
        logger.warning(
            "%s: the rotary embedding of %s has no spelling for "
            "transformers 4: read it with transformers 5",
            path,
            content["model_type"],
        )
    content.update(old)
    if content.get("dtype"):
        content["torch_dtype"] = content["dtype"]
    write_json(path, content)
    # A chat template in a file of its own is unknown to older versions.
    tokenizer.save_pretrained(folder, save_jinja_files=False)
    _respell_tokenizer(tokenizer, folder)


def _respell_tokenizer(tokenizer, folder):
    """Settings under names that both versions know."""
    path = os.path.join(folder, "tokenizer_config.json")
    content = _read(path)
    # How it happened to be loaded here.
    for key in ("is_local", "local_files_only"):
        content.pop(key, None)
    # Version 4 wants a table there, and calls the list by its older name,
    # which version 5 still takes.
    extra = content.get("extra_special_tokens")
    if isinstance(extra, list):
        del content["extra_special_tokens"]
        content["additional_special_tokens"] = extra
    if os.path.isfile(os.path.join(folder, "tokenizer.json")):
        # Its file says all. Version 4's classes of one model kind would add
        # what they think that this kind has, such as <s> before each text.
        content["tokenizer_class"] = "PreTrainedTokenizerFast"
        content["model_input_names"] = list(tokenizer.model_input_names)
        for key in ("clean_up_tokenization_spaces", "padding_side"):
            content[key] = getattr(tokenizer, key)
    write_json(path, content)


def _read(path):
    with open(path, encoding="utf-8") as stream:
        return json.load(stream)
