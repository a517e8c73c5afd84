"""Every option of a speech LLM's configuration, and what it may be.

What an option means stands beside it in a recipe's ``train.yaml``, what the
words under ``healing_parts`` mean and stand for in ``healing.presets``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from speechbrain_ext.later import later
from speechbrain_ext.model.prompt import template_faults
from speechbrain_ext.scores.language import base_language, normaliser_name
from speechbrain_ext.training.faults import Fault, as_yaml

MISSING = object()
OWN = "healing_parts"
ENCODERS = ("wavlm", "whisper")
# A test gives what is wrong with a value and how to mend it, if anything is.
Test = Callable[[Any], Iterable[str]]


def get(plain: Any, key: str) -> Any:
    """The value of a key (nested with dots), or ``MISSING``."""
    for part in key.split("."):
        if not isinstance(plain, dict) or part not in plain:
            return MISSING
        plain = plain[part]
    return plain


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number (true and false are none)."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value is a number (true and false are none)."""
    return is_whole(value) or isinstance(value, float)


def _must(fits, mend) -> Test:
    return lambda value: () if fits(value) else (mend,)


def either(words: Iterable[str | None]) -> str:
    """Words as a choice: "a, b or c"."""
    *most, last = map(as_yaml, words)
    return f"{', '.join(most)} or {last}" if most else last


def _one_of(*words) -> Test:
    return _must(lambda value: value in words, f"choose {either(words)}")


def _whole(least, *words) -> Test:
    mend = f"choose a whole number, {least} or more"
    mend += f", or {either(words)}" if words else ""
    return _must(
        lambda value: value in words or (is_whole(value) and value >= least),
        mend,
    )


def _or_null(test, null) -> Test:
    """A test that null passes, which stands for something."""
    return lambda value: (
        () if value is None else (f"{m}, or null ({null})" for m in test(value))
    )


def _names(value):
    """Whether a value is a list of texts, none of them twice."""
    texts = isinstance(value, list) and all(map(_is_text, value))
    return texts and _differ(value)


def _is_text(value):
    return isinstance(value, str) and bool(value)


def _is_positive(value):
    return is_number(value) and 0 < value < float("inf")


def _is_speed(value):
    return is_number(value) and 0.5 <= value <= 2 and value != 1


def are_layers(value: Any) -> bool:
    """Whether a value lists layers, each once."""
    whole = isinstance(value, list) and all(map(is_whole, value))
    return whole and min(value, default=-1) >= 0 and _differ(value)


def _differ(values):
    return len(set(values)) == len(values)


def _scored_as(check) -> Test:
    """The mend of a language that nothing can be scored as."""

    def mends(value):
        """Every mend that a value needs."""
        yield from TEXT(value)
        if _is_text(value):
            try:
                check(value)
            except ValueError as error:
                yield str(error)

    return mends


def _into(language):
    """A target language, which BLEU must know."""
    later("scores.translation", "target_language").check_bleu(language)


def _prompt(value):
    yield from TEXT(value)
    if _is_text(value):
        yield from map(": ".join, template_faults(value))


def _path_from(value):
    yield from TEXT(value)
    if _is_text(value) and value not in ("speech", "text"):
        if not os.path.isfile(value):
            yield "choose speech, text, or a table's or plan's file"


def _folder(value):
    if value is not None and not _is_text(value):
        yield "choose null, or a folder"
    elif value and os.path.isfile(value):
        yield "is a file: give a folder"


TEXT = _must(_is_text, "write a text that is not empty")
SWITCH = _must(lambda value: isinstance(value, bool), "choose true or false")
POSITIVE = _must(_is_positive, "choose a number above 0")
SECONDS = _must(
    lambda value: _is_positive(value) or (is_number(value) and value == 0),
    "choose seconds, 0 or more",
)
SHARE = _must(
    lambda value: is_number(value) and 0 <= value < 1,
    "choose a number from 0 up to, but not, 1",
)
NAMES = "write a list that names each split once, such as [dev-clean]"
SPLITS = _must(lambda value: _names(value) and value, NAMES)
PLACE = _or_null(TEXT, "found in data_folder")
DTYPE = _one_of("float32", "bfloat16", "float16")
WHERE = _must(
    lambda v: v in ("receivers", "after", "all") or are_layers(v),
    "choose receivers, after or all, or list layers once each",
)
PARTS = ("adapters", "bridge", "map", "distillation")
PART = _must(
    lambda value: value is None or isinstance(value, dict),
    "write null, or keys below it",
)

OPTIONS: dict[str, Test] = {
    "seed": _whole(0),
    "run_name": TEXT,
    "output_folder": TEXT,
    "save_folder": TEXT,
    "results_folder": TEXT,
    "data_folder": TEXT,
    # Data
    **{f"{name}_data": PLACE for name in ("train", "valid", "test")},
    "format": _one_of("kaldi", "nemo", "audiofolder", "csv", None),
    "split.valid": _or_null(POSITIVE, "none"),
    "split.test": _or_null(POSITIVE, "none"),
    "split.seed": _whole(0),
    "split.test_speakers": _or_null(_whole(1), "all"),
    "language": _scored_as(normaliser_name),
    "source_language": _scored_as(base_language),
    "target_language": _or_null(_scored_as(_into), "no translation"),
    "train_splits": SPLITS,
    "valid_splits": SPLITS,
    "loss_splits": _must(_names, NAMES),
    # To train and not to evaluate is a wish like others.
    "test_splits": _must(_names, NAMES),
    "train_min_seconds": SECONDS,
    "train_max_seconds": SECONDS,
    "long_audio": _one_of("error", "chunk"),
    "cache_features": _folder,
    "speed_perturb": _must(
        lambda v: isinstance(v, list) and all(map(_is_speed, v)) and _differ(v),
        "list speeds other than 1, from 0.5 to 2, once each, or write []",
    ),
    "noise_snr": _must(
        lambda v: isinstance(v, list) and all(map(is_number, v)) and _differ(v),
        "list ratios in dB, once each, or write []",
    ),
    # Frozen models
    "backbone.name": TEXT,
    "backbone.source": TEXT,
    "backbone.family": _one_of("Qwen2", "Llama"),
    "backbone.dtype": DTYPE,
    "speech_encoder.name": TEXT,
    "speech_encoder.source": TEXT,
    "speech_encoder.revision": _or_null(TEXT, "the newest"),
    "speech_encoder.kind": _one_of(*ENCODERS),
    "speech_encoder.dtype": DTYPE,
    "speech_encoder.normalise_input": _or_null(
        SWITCH, "as the encoder's files say"
    ),
    "speech_encoder.output_norm": SWITCH,
    "speech_encoder.max_seconds": _or_null(
        _must(lambda v: is_number(v) and v > 0, "choose seconds above 0"),
        "the encoder's own limit",
    ),
    "speech_encoder.window": _one_of("30s", "own"),
    # Speech to LLM
    "downsampling": _whole(1),
    "projector_hidden": _or_null(_whole(1), "the backbone's width"),
    "projector_dropout": SHARE,
    "speech_markers": SWITCH,
    "prompt": _prompt,
    "chat_template": SWITCH,
    # Pruning
    "prune_layers": _whole(0),
    "path_from": _path_from,
    "position": _one_of("target", "prompt"),
    "baseline": _folder,
    "start_from": _folder,
    # Healing; what stands where nothing is said is in healing.presets.
    "adapt_attention": SWITCH,
    "lora_rank": _whole(1),
    "lora_alpha": POSITIVE,
    "lora_dropout": SHARE,
    OWN: _must(
        lambda value: value is None or (isinstance(value, dict) and value),
        "write null, or parts with keys below them",
    ),
    f"{OWN}.projector": SWITCH,
    **{f"{OWN}.{part}": PART for part in PARTS},
    f"{OWN}.adapters.where": WHERE,
    f"{OWN}.adapters.modules": _one_of("mlp", "attention", "both"),
    f"{OWN}.adapters.rank": _or_null(_whole(1), "lora_rank"),
    f"{OWN}.adapters.budget": _whole(1, "paper", "block", None),
    f"{OWN}.bridge.where": WHERE,
    f"{OWN}.bridge.rank": _whole(1, "full"),
    f"{OWN}.bridge.start": _one_of("identity", "map"),
    f"{OWN}.bridge.form": _one_of("trained", "fixed", "folded"),
    f"{OWN}.map.utterances": _whole(1),
    f"{OWN}.map.held_out": _whole(1),
    f"{OWN}.map.ridge": _must(
        lambda v: isinstance(v, list) and v and all(map(_is_positive, v)),
        "list numbers above 0",
    ),
    f"{OWN}.map.positions": _one_of("all", "target"),
    f"{OWN}.distillation.weight": _must(
        lambda v: _is_positive(v) and v <= 1,
        "choose a number above 0, at most 1",
    ),
    f"{OWN}.distillation.temperature": POSITIVE,
    # Training
    "objective": _one_of("answer", "ctc"),
    "precision": _one_of("fp32", "bf16", "fp16"),
    "batch_size": _whole(1),
    "batch_seconds": _or_null(POSITIVE, "batch_size counts"),
    "length_pool": _whole(1),
    "grad_accumulation_factor": _whole(1),
    "steps": _whole(0),
    "warmup_steps": _whole(0),
    "warmdown_steps": _whole(0),
    "lr_projector": POSITIVE,
    "lr_adapter": POSITIVE,
    "lr_bridge": POSITIVE,
    "weight_decay": SHARE,
    "max_grad_norm": POSITIVE,
    "gradient_checkpointing": SWITCH,
    "padding_free": SWITCH,
    "valid_interval": _whole(1),
    "checkpoint_interval": _whole(1),
    "keep": _one_of("last", "best"),
    # Decoding
    "test_batch_size": _whole(1),
    "max_new_tokens": _whole(1),
}
# Of these the table knows every key.
CLOSED = ("speech_encoder", "split", OWN, *(f"{OWN}.{part}" for part in PARTS))


def value_faults(plain: dict) -> Iterator[Fault]:
    """Faults of each value by itself, and of keys that are unknown."""
    for key, test in OPTIONS.items():
        value = get(plain, key)
        if value is not MISSING:
            yield from (Fault(key, value, mend) for mend in test(value))
    for key in CLOSED:
        part, head = get(plain, key), f"{key}."
        below = [k[len(head) :] for k in OPTIONS if k.startswith(head)]
        known = [word for word in below if "." not in word]
        for word in part if isinstance(part, dict) else ():
            if word not in known:
                mend = f"unknown key: choose {either(known)}"
                yield Fault(f"{key}.{word}", part[word], mend)
