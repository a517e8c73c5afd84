"""What a configuration's healing, and one's own parts of it, must be."""

import re

from speechbrain_ext.training.faults import Fault

# ----------------------------------------------------------------------------
# Look at plain values of a configuration.

MISSING = object()


def get(plain, key):
    """The value of a key (nested with dots), or ``MISSING``.

    Arguments
    ---------
    plain : dict
        Plain values.
    key : str
        Such as ``backbone.source``.

    Returns
    -------
    object
    """
    for part in key.split("."):
        if not isinstance(plain, dict) or part not in plain:
            return MISSING
        plain = plain[part]
    return plain


def is_whole(value):
    """Whether a value is a whole number (true and false are none)."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value):
    """Whether a value is a number (true and false are none)."""
    return is_whole(value) or isinstance(value, float)


OWN = "healing_parts"
NAME = re.compile(r"[A-Za-z][\w-]*")


def healing_faults(plain, config=None):
    """Faults of the healing's name and of one's own parts."""
    # Heavy, and not needed by whoever only merges files.
    from speechbrain_ext.healing.presets import PRESETS

    name, own = get(plain, "healing"), get(plain, OWN)
    if own in (MISSING, None):
        if name is not MISSING and name not in PRESETS:
            mend = f"choose {_either(PRESETS)}, or write {OWN}"
            yield Fault("healing", name, mend)
        return
    if name is not MISSING and (
        not (isinstance(name, str) and NAME.fullmatch(name)) or name in PRESETS
    ):
        mend = (
            f"stands for other parts than those under {OWN}: give your own "
            "another name, of letters, digits, underscores and dashes"
        )
        yield Fault("healing", name, mend)
    if not isinstance(own, dict) or not own:
        yield Fault(OWN, own, "write null, or parts with keys below them")
        return
    yield from _part_faults(own)
    yield from _size_faults(plain, own, config)


def _either(words):
    """Words as a choice: "a, b or c" (str)."""
    words = list(words)
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _one_of(*words):
    return lambda v: v in words, f"choose {_either(words)}"


def _share(v):
    return is_number(v) and 0 < v <= 1


def _count(v):
    return is_whole(v) and v >= 1


def _positive(v):
    return is_number(v) and 0 < v < float("inf")


def _layers(v):
    if v in ("receivers", "after", "all"):
        return True
    whole = isinstance(v, list) and all(is_whole(i) and i >= 0 for i in v)
    return bool(whole and v and len(set(v)) == len(v))


COUNT = (_count, "choose a whole number, 1 or more")
POSITIVE = (_positive, "choose a number above 0")
WHERE = (_layers, "choose receivers, after or all, or list layers once each")
# For each part, its words: what they may be, and how to put that right.
TESTS = {
    "adapters": {
        "where": WHERE,
        "modules": _one_of("mlp", "attention", "both"),
        "rank": (lambda v: v is None or _count(v), f"{COUNT[1]}, or null"),
        "budget": (
            lambda v: v in (None, "paper", "block") or _count(v),
            "choose a whole number above 0, paper, block or null",
        ),
    },
    "bridge": {
        "where": WHERE,
        "rank": (lambda v: v == "full" or _count(v), f"{COUNT[1]}, or full"),
        "start": _one_of("identity", "map"),
        "form": _one_of("trained", "fixed", "folded"),
    },
    "map": {
        "utterances": COUNT,
        "held_out": COUNT,
        "ridge": (
            lambda v: isinstance(v, list) and v and all(map(_positive, v)),
            "list numbers above 0",
        ),
        "positions": _one_of("all", "target"),
    },
    "distillation": {
        "weight": (_share, "choose a number above 0, at most 1"),
        "temperature": POSITIVE,
    },
}


def _part_faults(own):
    """Faults of unknown words, and of values that cannot be."""
    known = ["projector", *TESTS]
    for part, words in own.items():
        key = f"{OWN}.{part}"
        if part not in known:
            yield Fault(key, words, f"unknown part: choose {_either(known)}")
        elif part == "projector":
            if not isinstance(words, bool):
                yield Fault(key, words, "choose true or false")
        elif words is None:
            continue
        elif not isinstance(words, dict):
            yield Fault(key, words, "write null, or keys below it")
        else:
            yield from _word_faults(key, words, TESTS[part])
    yield from _together_faults(own)


def _word_faults(key, words, tests):
    for word, value in words.items():
        if word not in tests:
            mend = f"unknown key: choose {_either(tests)}"
            yield Fault(f"{key}.{word}", value, mend)
        elif not tests[word][0](value):
            yield Fault(f"{key}.{word}", value, tests[word][1])


def _together_faults(own):
    """Faults of values that do not go together."""

    def word(part, name, default=None):
        words = own.get(part)
        return words.get(name, default) if isinstance(words, dict) else None

    if word("adapters", "rank") and word("adapters", "budget"):
        mend = "a rank is given too: set one of them to null"
        yield Fault(f"{OWN}.adapters.budget", word("adapters", "budget"), mend)
    form, start = word("bridge", "form"), word("bridge", "start", "identity")
    if form in ("fixed", "folded") and start == "identity":
        mend = "an identity that is not trained does nothing: give start: map"
        yield Fault(f"{OWN}.bridge.form", form, mend)
    trained = own.get("projector") is True or own.get("adapters") is not None
    trained = trained or (
        own.get("bridge") is not None
        and word("bridge", "form", "trained") == "trained"
    )
    if own.get("distillation") is not None and not trained:
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
        if isinstance(where, list) and _layers(where) and max(where) >= kept:
            mend = f"{kept} layers are kept: choose 0 to {kept - 1}"
            yield Fault(f"{OWN}.{part}.where", where, mend)
    rank, width = get(own, "bridge.rank"), config.hidden_size
    if is_whole(rank) and rank >= width:
        mend = f"the stream is {width} wide: choose less, or full"
        yield Fault(f"{OWN}.bridge.rank", rank, mend)
