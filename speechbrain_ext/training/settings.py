"""What the values of a speech LLM's configuration must be."""

import os

from speechbrain_ext.scores.language import (
    base_language,
    check_bleu,
    normaliser_name,
)
from speechbrain_ext.training.baseline import refuse_unfinished
from speechbrain_ext.training.faults import ConfigError, Fault
from speechbrain_ext.training.healing_settings import (
    MISSING,
    get,
    healing_faults,
    is_number,
    is_whole,
)

CHOICES = {
    "position": ("target", "prompt"),
    "precision": ("fp32", "bf16", "fp16"),
    "long_audio": ("error", "chunk"),
    "backbone.family": ("Qwen2", "Llama"),
    "backbone.dtype": ("float32", "bfloat16", "float16"),
    "speech_encoder.kind": ("wavlm", "whisper"),
    "speech_encoder.dtype": ("float32", "bfloat16", "float16"),
}
WHOLE_NUMBERS = {  # from key to the least value
    "seed": 0,
    "downsampling": 1,
    "prune_layers": 0,
    "lora_rank": 1,
    "batch_size": 1,
    "test_batch_size": 1,
    "grad_accumulation_factor": 1,
    "steps": 0,
    "warmup_steps": 0,
    "warmdown_steps": 0,
    "valid_interval": 1,
    "checkpoint_interval": 1,
    "max_new_tokens": 1,
}
POSITIVE = (
    "lora_alpha",
    "lr_projector",
    "lr_adapter",
    "lr_bridge",
    "max_grad_norm",
)
SWITCHES = (
    "speech_markers",
    "chat_template",
    "adapt_attention",
    "gradient_checkpointing",
    "speech_encoder.output_norm",
)
TEXTS = (
    "run_name",
    "output_folder",
    "save_folder",
    "results_folder",
    "data_folder",
    "path_from",
    "prompt",
    "language",
    "source_language",
    "target_language",
    "backbone.name",
    "backbone.source",
    "speech_encoder.name",
    "speech_encoder.source",
)
DECODERS = ("qwen2", "llama")
ENCODER_KEYS = (
    "name",
    "source",
    "revision",
    "kind",
    "dtype",
    "normalise_input",
    "output_norm",
    "max_seconds",
)


def speechllm_rules(plain):
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
    return [
        *choice_faults(plain),
        *number_faults(plain),
        *length_faults(plain),
        *text_faults(plain),
        *language_faults(plain),
        *schedule_faults(plain),
        *path_faults(plain),
        *backbone_faults(plain),
        *healing_faults(plain, load_config(plain, "backbone")[0]),
        *encoder_faults(plain),
        *baseline_faults(plain),
    ]


def choice_faults(plain):
    """Faults of keys that take one of a few words, or true and false."""
    for key, choices in CHOICES.items():
        value = get(plain, key)
        if value is not MISSING and value not in choices:
            mend = f"choose {', '.join(choices[:-1])} or {choices[-1]}"
            yield Fault(key, value, mend)
    for key in SWITCHES:
        value = get(plain, key)
        if value is not MISSING and not isinstance(value, bool):
            yield Fault(key, value, "choose true or false")


def number_faults(plain):
    """Faults of keys that take a number."""
    for key, least in WHOLE_NUMBERS.items():
        value = get(plain, key)
        if value is not MISSING and not (is_whole(value) and value >= least):
            mend = f"choose a whole number, {least} or more"
            yield Fault(key, value, mend)
    for key in POSITIVE:
        value = get(plain, key)
        fits = is_number(value) and 0 < value < float("inf")
        if value is not MISSING and not fits:
            yield Fault(key, value, "choose a number above 0")
    dropout = get(plain, "lora_dropout")
    fits = is_number(dropout) and 0 <= dropout < 1
    if dropout is not MISSING and not fits:
        mend = "choose a number from 0 up to, but not, 1"
        yield Fault("lora_dropout", dropout, mend)
    limit = get(plain, "speech_encoder.max_seconds")
    fits = limit in (MISSING, None) or (is_number(limit) and limit > 0)
    if not fits:
        mend = "choose null (the encoder's own limit), or seconds above 0"
        yield Fault("speech_encoder.max_seconds", limit, mend)
    hidden = get(plain, "projector_hidden")
    fits = hidden is None or (is_whole(hidden) and hidden >= 1)
    if hidden is not MISSING and not fits:
        mend = "choose null (the backbone's width), or a whole number above 0"
        yield Fault("projector_hidden", hidden, mend)


def length_faults(plain):
    """Faults of the bounds of what is trained on."""
    keys = ("train_min_seconds", "train_max_seconds")
    least, most = (get(plain, key) for key in keys)
    for key, value in zip(keys, (least, most)):
        fits = is_number(value) and 0 <= value < float("inf")
        if value is not MISSING and not fits:
            yield Fault(key, value, "choose seconds, 0 or more")
    if is_number(least) and is_number(most) and least > most:
        mend = f"is more than train_max_seconds {most}: choose less"
        yield Fault("train_min_seconds", least, mend)


def text_faults(plain):
    """Faults of keys that take a text, and of the lists of splits."""
    for key in TEXTS:
        value = get(plain, key)
        if value is not MISSING and not (isinstance(value, str) and value):
            yield Fault(key, value, "write a text that is not empty")
    for key in ("train_splits", "valid_splits", "test_splits"):
        value = get(plain, key)
        if value is MISSING:
            continue
        # To train and not to evaluate is a wish like others.
        fits = isinstance(value, list) and (value or key == "test_splits")
        if not (fits and all(isinstance(v, str) and v for v in value)):
            yield Fault(key, value, "write a list, such as [dev-clean]")
        elif len(set(value)) < len(value):
            yield Fault(key, value, "name each split once")
    prompt = get(plain, "prompt")
    if isinstance(prompt, str) and prompt:
        # Heavy, and not needed by whoever only merges files.
        from speechbrain_ext.model.prompt import template_faults

        for fault, mend in template_faults(prompt):
            yield Fault("prompt", prompt, f"{fault}: {mend}")


def language_faults(plain):
    """Faults of languages that a set cannot be scored as."""
    for key, check in (
        ("language", normaliser_name),
        ("source_language", base_language),
        ("target_language", check_bleu),
    ):
        value = get(plain, key)
        # text_faults has told of these.
        if value is MISSING or not (isinstance(value, str) and value):
            continue
        try:
            check(value)
        except ValueError as error:
            yield Fault(key, value, str(error))


def schedule_faults(plain):
    """Faults of a warm-up and warm-down longer than the training."""
    keys = ("steps", "warmup_steps", "warmdown_steps")
    steps, up, down = (get(plain, key) for key in keys)
    if all(is_whole(v) for v in (steps, up, down)) and up + down > steps:
        mend = (
            f"but warmup_steps {up} and warmdown_steps {down} make "
            f"{up + down}: make them shorter, or steps at least {up + down}"
        )
        yield Fault("steps", steps, mend)


def path_faults(plain):
    """Faults of keys that take a file or folder."""
    path = get(plain, "path_from")
    if isinstance(path, str) and path not in ("speech", "text"):
        if path and not os.path.isfile(path):
            mend = "choose speech, text, or a table's or plan's file"
            yield Fault("path_from", path, mend)
    for key in ("baseline", "cache_features"):
        value = get(plain, key)
        if value not in (MISSING, None) and not (
            isinstance(value, str) and value
        ):
            yield Fault(key, value, "choose null, or a folder")
        elif isinstance(value, str) and os.path.isfile(value):
            yield Fault(key, value, "is a file: give a folder")


def load_config(plain, part):
    """The config of a part's model, from a folder or the hub.

    Arguments
    ---------
    plain : dict
        Plain values.
    part : str
        ``backbone`` or ``speech_encoder``.

    Returns
    -------
    config : transformers.PretrainedConfig or None
        None where there is none.
    fault : Fault or None
        Why there is none.
    """
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


def backbone_faults(plain):
    """Faults of the backbone's source and of the depth cut from it."""
    config, fault = load_config(plain, "backbone")
    if fault:
        yield fault
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
        choice = f"choose 1 to {layers - 1}"
        if layers == 1:
            choice = "choose 0"
        elif layers == 2:
            choice = "choose 1"
        mend = (
            f"but {name} has {layers} layers and one must stay to receive: "
            f"{choice}"
        )
        yield Fault("prune_layers", cut, mend)


def encoder_faults(plain):
    """Faults of the speech encoder's source."""
    config, fault = load_config(plain, "speech_encoder")
    if fault:
        yield fault
    normalise = get(plain, "speech_encoder.normalise_input")
    if normalise not in (MISSING, None, True, False):
        mend = "choose null (as the encoder's files say), true or false"
        yield Fault("speech_encoder.normalise_input", normalise, mend)
    options = get(plain, "speech_encoder")
    for key in sorted(set(options if isinstance(options, dict) else ())):
        if key not in ENCODER_KEYS:
            mend = f"unknown: known are {', '.join(ENCODER_KEYS)}"
            yield Fault(f"speech_encoder.{key}", options[key], mend)
    kind = get(plain, "speech_encoder.kind")
    known = CHOICES["speech_encoder.kind"]
    if config is not None and kind in known and config.model_type != kind:
        found = config.model_type
        mend = f"but the source holds a {found} model: "
        if found in known:
            mend += f"give --speech_encoder.kind {found}"
        else:
            mend += f"choose one of {', '.join(known)}"
        yield Fault("speech_encoder.kind", kind, mend)


def baseline_faults(plain):
    """Faults of a pruned run without the whole model to cut from."""
    cut, baseline = get(plain, "prune_layers"), get(plain, "baseline")
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
