"""Which run may be a baseline: a whole, finished one of the very same system.

Its projector is worth nothing to a decoder that is given other features or
another prompt, and its adapter nothing on other layers.
"""

import functools
import hashlib
import json
import math
import os

import torch

from speechbrain_ext.layers.weights import (
    TYPES,
    fetch_file,
    read_head,
    weight_files,
)

TRAINED = "trained"
SYSTEM_FILE = "system.json"
# What decides what the projector hears, and what is said to and by the LLM.
MUST_AGREE = (
    "backbone",
    "backbone_weights",
    "backbone_dtype",
    "encoder",
    "encoder_weights",
    "encoder_dtype",
    "normalise_input",
    "output_norm",
    "max_seconds",
    "long_audio",
    "downsampling",
    "projector_hidden",
    "speech_markers",
    "task",
    "prompt",
    "chat_template",
    "lowercase_targets",
)
# Of older runs, whose weights have no fingerprint.
REVISIONS = ("backbone_revision", "encoder_revision")


def read_system(run_folder, key="baseline"):
    """What a finished run's ``system.json`` says.

    Arguments
    ---------
    run_folder : str
        A run's output folder.
    key : str
        The setting that named it.

    Returns
    -------
    dict

    Raises
    ------
    FileNotFoundError
        If the run is not finished, or there is none.
    """
    path = os.path.join(run_folder, TRAINED, SYSTEM_FILE)
    if not os.path.isfile(path):
        name = os.path.basename(os.path.normpath(run_folder))
        raise FileNotFoundError(
            f"{key}: {run_folder} holds no trained system ({path} is not "
            f"there). Train it first: python train.py hparams/{name}.yaml "
            "(with the same results_folder), or give another folder with "
            f"--{key}."
        )
    with open(path, encoding="utf-8") as stream:
        return json.load(stream)


def refuse_pruned(system, run_folder):
    """Refuse a baseline that lacks layers (ValueError)."""
    kept, layers = system["kept_layers"], system["layers"]
    if list(kept) != list(range(layers)):
        raise ValueError(
            f"baseline: {run_folder} was pruned, it keeps {len(kept)} of "
            f"{layers} layers, and what it was healed with belongs to these: "
            "give the whole model's run."
        )


def refuse_unfinished(run_folder):
    """Refuse all but a whole, finished run, before anything is loaded.

    Raises
    ------
    FileNotFoundError, ValueError
        Saying what is there instead, and what to do.
    """
    system = read_system(run_folder)
    refuse_pruned(system, run_folder)
    path = os.path.join(run_folder, "result.json")
    try:
        with open(path, encoding="utf-8") as stream:
            status = json.load(stream)["status"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"baseline: {path} cannot be read ({error}): give the folder of a "
            "finished run."
        ) from error
    if status != "done":
        raise ValueError(
            f"baseline: {run_folder} is not finished, its status is {status}: "
            "start the command that began it again, which goes on with it."
        )


def refuse_another(told, about, run_folder):
    """Refuse a baseline of another system, all that differs told at once."""
    keys = [key for key in MUST_AGREE if key in about]
    if "backbone_weights" not in told:
        keys += [key for key in REVISIONS if key in about]
    unknown = [key for key in keys if key not in told]
    faults = [
        f"{key}: {about[key]!r}, but the baseline in {run_folder} was trained "
        f"with {told[key]!r}. {_mend(key)}, or train another baseline."
        for key in keys
        if key in told and told[key] != about[key]
    ]
    if faults:
        raise ValueError("\n".join(faults))
    return unknown


def _mend(key):
    """What to do about a key that differs (str)."""
    part, _, what = key.partition("_")
    if what != "weights":
        return "Use the same"
    section = {"backbone": "backbone", "encoder": "speech_encoder"}[part]
    return (
        "The two are fingerprints of the weights: give the same checkpoint "
        f"with {section}.source and {section}.revision"
    )


# ----------------------------------------------------------------------------
# A cheap fingerprint of a model's weights, wherever they lie.
#
# Names, types and shapes of all tensors, and a few pieces of each: some
# megabytes are read of a model of any size. The folder, and how the weights
# are cut into files, do not count.

# Bytes of a piece, and pieces of a tensor (or of a file that is not read
# tensor by tensor).
PIECE, PIECES, FILE_PIECES = 4096, 4, 512
NAMES = {dtype: name for name, dtype in TYPES.items()}


def fingerprint(source, revision=None):
    """What a model's weights are, to tell them from others of that name.

    Arguments
    ---------
    source : str
        Hub id or local folder.
    revision : str or None
        Branch, tag or commit on the hub.

    Returns
    -------
    str
        32 hexadecimal digits.

    Raises
    ------
    FileNotFoundError, ValueError
        If there are no weights, or a file is cut short.
    """
    files = []
    for name in sorted(weight_files(str(source), revision)):
        path = fetch_file(str(source), name, revision)
        stat = os.stat(path)
        files.append((path, stat.st_size, stat.st_mtime_ns))
    return _of_files(tuple(files))


@functools.lru_cache(maxsize=16)
def _of_files(files):
    """The fingerprint of weight files, given with size and time."""
    parts = {}
    for path, size, _ in files:
        if path.endswith(".safetensors"):
            parts.update(_of_safetensors(path))
        else:
            parts.update(_of_pickle(path, size))
    digest = hashlib.blake2b(digest_size=16)
    for name, part in sorted(parts.items()):
        digest.update(f"{name}\n".encode() + part)
    return digest.hexdigest()


def _of_safetensors(path):
    """Each tensor's own digest (dict)."""
    found = {}
    places = sorted(read_head(path).items(), key=lambda one: one[1].offset)
    with open(path, "rb", buffering=0) as stream:
        for name, place in places:
            size = math.prod(place.shape) * place.dtype.itemsize

            def read(first, count, place=place):
                stream.seek(place.offset + first)
                return stream.read(count)

            kind = f"{NAMES[place.dtype]} {place.shape}"
            found[name] = _sampled(kind, size, read)
    return found


def _of_pickle(path, size):
    """The same of a legacy file; as one, where its tensors cannot be mapped."""
    try:
        state = torch.load(
            path, map_location="cpu", mmap=True, weights_only=True
        )
    except RuntimeError:
        with open(path, "rb", buffering=0) as stream:

            def read(first, count):
                stream.seek(first)
                return stream.read(count)

            return {"file": _sampled("file", size, read, FILE_PIECES)}
    found = {}
    for name, value in state.items():
        flat = value.detach().contiguous().reshape(-1).view(torch.uint8)

        def read(first, count, flat=flat):
            return flat[first : first + count].numpy().tobytes()

        kind = f"{NAMES.get(value.dtype)} {tuple(value.shape)}"
        found[name] = _sampled(kind, len(flat), read)
    return found


def _sampled(kind, size, read, pieces=PIECES):
    """Digest of what something is and of pieces of it, first and last too."""
    digest = hashlib.blake2b(f"{kind} {size}".encode(), digest_size=16)
    if size <= pieces * PIECE:
        digest.update(read(0, size))
        return digest.digest()
    for number in range(pieces):
        digest.update(read(number * (size - PIECE) // (pieces - 1), PIECE))
    return digest.digest()
