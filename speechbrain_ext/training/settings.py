"""What the values of a speech LLM's configuration must be together."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

from speechbrain_ext.training.baseline_checks import refuse_unfinished
from speechbrain_ext.training.faults import ConfigError, Fault
from speechbrain_ext.training.options import (
    ENCODERS,
    MISSING,
    OWN,
    are_layers,
    either,
    get,
    is_number,
    is_whole,
    value_faults,
)

DECODERS = ("qwen2", "llama")


def speechllm_rules(plain: dict) -> list[Fault]:
    """The rules of a speech LLM recipe's ``train.yaml``.

    Arguments
    ---------
    plain : dict
        Plain values; a key that is not there is passed over.

    Returns
    -------
    list
        Of ``Fault``, one for each value that cannot be.
    """
    config, why = load_config(plain, "backbone")
    return [
        *value_faults(plain),
        *_place_faults(plain),
        *_order_faults(plain),
        *([why] if why else _backbone_faults(plain, config)),
        *_healing_faults(plain, config),
        *_encoder_faults(plain),
        *_baseline_faults(plain),
    ]


def _place_faults(plain) -> Iterator[Fault]:
    """Faults of a data folder that is not there, and of where results go."""
    folder = get(plain, "output_folder")
    if isinstance(folder, str) and folder:
        there = os.path.abspath(folder)
        while not os.path.exists(there):
            there = os.path.dirname(there)
        if not os.path.isdir(there) or not os.access(there, os.W_OK):
            why = (
                "cannot be written to" if os.path.isdir(there) else "is a file"
            )
            mend = f"{there} {why}: give another --results_folder DIR"
            yield Fault("output_folder", folder, mend)
    folder = get(plain, "data_folder")
    if not isinstance(folder, str) or not folder or os.path.exists(folder):
        return
    # Loquacious takes a hub id.
    hub_id = re.fullmatch(r"\w[\w.-]*/[\w.-]+", folder)
    if not (hub_id and "cache_gigabytes" in plain):
        mend = "is not there: give the folder with --data_folder DIR"
        yield Fault("data_folder", folder, mend)


def _order_faults(plain) -> Iterator[Fault]:
    """Faults of numbers that do not go together."""
    least, most, batch, steps, up, down = (
        get(plain, key)
        for key in (
            "train_min_seconds",
            "train_max_seconds",
            "batch_seconds",
            "steps",
            "warmup_steps",
            "warmdown_steps",
        )
    )
    if is_number(least) and is_number(most) and least > most:
        mend = f"is more than train_max_seconds {most}: choose less"
        yield Fault("train_min_seconds", least, mend)
    if is_number(batch) and is_number(most) and batch < most:
        mend = f"is less than train_max_seconds {most}: choose as much or more"
        yield Fault("batch_seconds", batch, mend)
    if all(map(is_whole, (steps, up, down))) and up + down > steps:
        mend = (
            f"but warmup_steps {up} and warmdown_steps {down} make "
            f"{up + down}: make them shorter, or steps at least {up + down}"
        )
        yield Fault("steps", steps, mend)


# ----------------------------------------------------------------------------
# Healing.


def _healing_faults(plain, config) -> Iterator[Fault]:
    """Faults of the healing's name, and of one's own parts together."""
    # Imports peft, which whoever only merges files does not need.
    from speechbrain_ext.healing.presets import PRESETS

    name, own = get(plain, "healing"), get(plain, OWN)
    if own in (MISSING, None):
        if name is not MISSING and name not in tuple(PRESETS):
            mend = f"choose {either(PRESETS)}, or write {OWN}"
            yield Fault("healing", name, mend)
        return
    is_name = isinstance(name, str) and re.fullmatch(r"[A-Za-z][\w-]*", name)
    if name is not MISSING and (not is_name or name in PRESETS):
        mend = (
            f"stands for other parts than those under {OWN}: give your own "
            "another name, of letters, digits, underscores and dashes"
        )
        yield Fault("healing", name, mend)
    if isinstance(own, dict):
        yield from _part_faults(own)
        yield from _size_faults(plain, own, config)


def _part_faults(own):
    """Faults of parts that do not go together."""

    def word(key, default=None):
        """A word of the part."""
        value = get(own, key)
        return default if value is MISSING else value

    budget, form = word("adapters.budget"), word("bridge.form", "trained")
    if word("adapters.rank") and budget:
        mend = "a rank is given too: set one of them to null"
        yield Fault(f"{OWN}.adapters.budget", budget, mend)
    start = word("bridge.start", "identity")
    if form in ("fixed", "folded") and start == "identity":
        mend = "an identity that is not trained does nothing: give start: map"
        yield Fault(f"{OWN}.bridge.form", form, mend)
    trains_bridge = word("bridge") is not None and form == "trained"
    trains = word("projector") is True or word("adapters") is not None
    if word("distillation") is not None and not (trains or trains_bridge):
        mend = "nothing is trained that could learn from the whole model"
        yield Fault(f"{OWN}.distillation", own["distillation"], mend)


def _size_faults(plain, own, config):
    """Faults of layers and ranks that the backbone does not have."""
    cut = get(plain, "prune_layers")
    if config is None or not is_whole(cut):
        return
    kept = config.num_hidden_layers - cut
    for part in ("adapters", "bridge"):
        where = get(own, f"{part}.where")
        if are_layers(where) and max(where) >= kept:
            mend = f"{kept} layers are kept: choose 0 to {kept - 1}"
            yield Fault(f"{OWN}.{part}.where", where, mend)
    rank, width = get(own, "bridge.rank"), config.hidden_size
    if is_whole(rank) and rank >= width:
        mend = f"the stream is {width} wide: choose less, or full"
        yield Fault(f"{OWN}.bridge.rank", rank, mend)


# ----------------------------------------------------------------------------
# Models and runs that a configuration names.


def load_config(plain: dict, part: str) -> tuple[Any, Fault | None]:
    """The Hugging Face config of a part, or why there is none."""
    source = get(plain, f"{part}.source")
    if not isinstance(source, str) or not source:
        return None, None
    # Heavy, and not needed by whoever only merges files.
    from transformers import AutoConfig

    revision = get(plain, f"{part}.revision")
    named = {"revision": revision} if isinstance(revision, str) else {}
    key = f"{part}.source"
    if os.path.isabs(source) or source.startswith(("./", "../", "~")):
        source = os.path.expanduser(source)
        if not os.path.isfile(os.path.join(source, "config.json")):
            mend = "has no config.json: give a folder of a Hugging Face model"
            return None, Fault(key, source, mend)
    try:
        config = AutoConfig.from_pretrained(
            source, trust_remote_code=False, **named
        )
        return config, None
    except Exception as error:  # the hub's and the config's are of many kinds
        why = str(error).strip().split("\n")[0]
        mend = (
            f"its config cannot be had ({why}): go online once (`hf download "
            f"{source}`; a gated model needs its licence accepted and `hf auth "
            f"login`), or give a local folder with --{key} DIR"
        )
        return None, Fault(key, source, mend)


def _backbone_faults(plain, config):
    """Faults of the backbone's kind and of the depth cut from it."""
    if config is None:
        return
    if config.model_type not in DECODERS:
        mend = f"is a {config.model_type} model: choose a Qwen2 or Llama one"
        yield Fault("backbone.source", get(plain, "backbone.source"), mend)
        return
    layers, cut = config.num_hidden_layers, get(plain, "prune_layers")
    if is_whole(cut) and cut >= layers:
        name = get(plain, "backbone.name")
        name = "the backbone" if name is MISSING else name
        choice = {1: "0", 2: "1"}.get(layers, f"1 to {layers - 1}")
        mend = (
            f"but {name} has {layers} layers and one must stay to receive: "
            f"choose {choice}"
        )
        yield Fault("prune_layers", cut, mend)


def _encoder_faults(plain):
    """Faults of the speech encoder's source."""
    config, fault = load_config(plain, "speech_encoder")
    if fault:
        yield fault
    kind = get(plain, "speech_encoder.kind")
    if config is not None and kind in ENCODERS and config.model_type != kind:
        found = config.model_type
        mend = f"but the source holds a {found} model: "
        if found in ENCODERS:
            mend += f"give --speech_encoder.kind {found}"
        else:
            mend += f"choose one of {', '.join(ENCODERS)}"
        yield Fault("speech_encoder.kind", kind, mend)
    own = get(plain, "speech_encoder.window") == "own"
    if own and kind in ENCODERS and kind != "whisper":
        mend = f"but {kind} always takes an utterance alone: leave it out"
        yield Fault("speech_encoder.window", "own", mend)


def _baseline_faults(plain):
    """Faults of a pruned run without the whole model to cut from."""
    cut, baseline = get(plain, "prune_layers"), get(plain, "baseline")
    start = get(plain, "start_from")
    if isinstance(start, str) and isinstance(baseline, str):
        mend = f"but baseline {baseline} is given too: leave one of them out"
        yield Fault("start_from", start, mend)
    if get(plain, "objective") == "ctc":
        for key in ("prune_layers", "adapt_attention"):
            if get(plain, key) not in (MISSING, 0, False):
                mend = "objective: ctc trains a projector alone: leave it out"
                yield Fault(key, get(plain, key), mend)
    if not is_whole(cut) or cut < 1 or baseline is MISSING:
        return
    if isinstance(baseline, str) and os.path.isdir(baseline):
        try:
            refuse_unfinished(baseline)
        except (OSError, ValueError) as error:
            mend = str(error).removeprefix("baseline: ")
            yield Fault("baseline", baseline, mend)
        return
    if baseline is not None and not isinstance(baseline, str):
        return
    name = get(plain, "backbone.name")
    name = "baseline" if name is MISSING else f"{name}-baseline"
    data = get(plain, "data_folder")
    data = "DIR" if data is MISSING else data
    what = "is not given" if baseline is None else "is not there"
    yield Fault(
        "baseline",
        baseline,
        f"{what}, and prune_layers {cut} cuts from a trained whole model: "
        "make it with `python train.py THE_SAME.yaml --prune_layers 0 "
        f"--run_name {name} --data_folder {data}`, then give its folder with "
        "--baseline DIR",
    )


def check_settings(**settings) -> None:
    """Refuse settings that do not fit: `speechllm_rules` at a YAML's own end."""
    faults = speechllm_rules(settings)
    if faults:
        raise ConfigError("the settings", faults)
