"""Save a causal LM so that transformers 4 reads what transformers 5 reads.

transformers 5 writes only its own spelling of the rotary embedding and of the
tokenizer's class. Version 4, which vLLM and llama.cpp's converter long built
on, then takes its defaults without a word: theta 10,000, no scaling. Here
both spellings are written; either version gives the same logits and tokens.
"""

from __future__ import annotations

import copy
import json
import logging
import os

from speechbrain_ext.runs.files import write_json
from speechbrain_ext.runs.folders import usual_rights

logger = logging.getLogger(__name__)

SHARD = "5GB"
# Keys of transformers 4 for what `rope_parameters` holds.
OLD_ROPE = (
    "rope_theta",
    "rope_scaling",
    "partial_rotary_factor",
    "rope_local_base_freq",
)
FULL, SLIDING = "full_attention", "sliding_attention"


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


def with_old_rope(config):
    """The configuration, which is saved in both spellings from now on.

    What is set in ``rope_parameters`` afterwards needs this again.
    """
    # Past the class: there, rope_scaling is another name of rope_parameters.
    for key in OLD_ROPE:
        config.__dict__.pop(key, None)
    config.__dict__.update(old_rope(config))
    return config


def old_rope(config):
    """``rope_parameters`` under the names of transformers 4 (dict)."""
    rope = getattr(config, "rope_parameters", None)
    if not rope:
        return {}
    old = {}
    if isinstance(rope.get(FULL), dict):
        # Gemma 3's kind: of its own for each kind of attention.
        if isinstance(rope.get(SLIDING), dict):
            old["rope_local_base_freq"] = rope[SLIDING].get("rope_theta")
        rope = rope[FULL]
    scaling = copy.deepcopy(rope)
    old["rope_theta"] = scaling.pop("rope_theta", None)
    factor = scaling.pop("partial_rotary_factor", None)
    if factor is not None:
        old["partial_rotary_factor"] = factor
    kind = scaling.get("rope_type", "default")
    old["rope_scaling"] = None if kind == "default" else scaling
    if not isinstance(old["rope_theta"], (int, float)):
        return {}
    plain = {k: v for k, v in config.to_dict().items() if k not in OLD_ROPE}
    # Nothing, where version 5 would not read the same from both spellings.
    again = type(config)(**plain, **copy.deepcopy(old))
    return old if again.rope_parameters == config.rope_parameters else {}
