"""A cheap fingerprint of a model's weights, wherever they lie.

Names, types and shapes of all tensors, and a few pieces of each: some
megabytes are read of a model of any size. The folder, and how the weights
are cut into files, do not count.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
import re

import torch
from transformers.utils.hub import extract_commit_hash

from speechbrain_ext.layers.converting import TYPES, read_head
from speechbrain_ext.layers.weights import fetch_file, weight_files

# Bytes of a piece, and pieces of a tensor (or of a file that is not read
# tensor by tensor).
PIECE, PIECES, FILE_PIECES = 4096, 4, 512
NAMES = {dtype: name for name, dtype in TYPES.items()}


def fingerprint(source: str, revision: str | None = None) -> str:
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
        path = str(fetch_file(str(source), name, revision))
        stat = os.stat(path)
        files.append((path, stat.st_size, stat.st_mtime_ns))
    return _of_files(tuple(files))


def loaded_from(source: str, revision: str | None = None) -> dict:
    """Where a model's weights came from, for a result: its commit and files.

    Arguments
    ---------
    source : str
        Hub id or local folder.
    revision : str or None
        Branch, tag or commit on the hub.

    Returns
    -------
    dict
        source, revision, fingerprint; commit, which the revision was, and of
        each file bytes and hash: SHA-256 of a large file, git's own of a small
        one, as the hub names them. A local folder has neither.
    """
    names = ["config.json", *sorted(weight_files(str(source), revision))]
    files: dict[str, dict] = {}
    commit = None
    for name in names:
        path = str(fetch_file(str(source), name, revision))
        commit = commit or extract_commit_hash(path, None)
        blob = os.path.basename(os.path.realpath(path))
        is_hash = re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob)
        size = os.path.getsize(path)
        files[name] = {"bytes": size, "hash": blob if is_hash else None}
    return {
        "source": str(source),
        "revision": revision,
        "commit": commit,
        "fingerprint": fingerprint(source, revision),
        "files": files,
    }


def weights_of(backbone: dict, encoder: dict) -> dict:
    """The fingerprints of both, for ``system.json``."""
    return {
        f"{part}_weights": fingerprint(model["source"], model.get("revision"))
        for part, model in (("backbone", backbone), ("encoder", encoder))
    }


def models_of(hparams: dict, before: dict, run_folder: str) -> dict:
    """What backbone and encoder were loaded from, for the result.

    Arguments
    ---------
    hparams : dict
        A recipe's settings.
    before : dict
        What an earlier start of this run noted; empty where there was none.
    run_folder : str
        The run's, for the message.

    Returns
    -------
    dict
        "backbone" and "encoder" to what `loaded_from` gives.

    Raises
    ------
    ValueError
        If a branch of the hub, or a folder, has other weights since then.
    """
    found: dict[str, dict] = {}
    for part, key in (("backbone", "backbone"), ("encoder", "speech_encoder")):
        model = hparams[key]
        if not model.get("source"):  # part of the other
            continue
        told = loaded_from(model["source"], model.get("revision"))
        found[part] = told
        known = before.get(part, told)
        if known["fingerprint"] != told["fingerprint"]:
            raise ValueError(
                f"{run_folder}: begun with {model['source']} at "
                f"{known['commit'] or known['fingerprint']}, which is now "
                f"{told['commit'] or told['fingerprint']}, other weights: "
                f"give --{key}.revision that commit, or another --run_name."
            )
    return found


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
                """Bytes from a place of the tensor on."""
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

            def of_file(first, count):
                """Bytes from a place of the file on."""
                stream.seek(first)
                return stream.read(count)

            return {"file": _sampled("file", size, of_file, FILE_PIECES)}
    found = {}
    for name, value in state.items():
        flat = value.detach().contiguous().reshape(-1).view(torch.uint8)

        def read(first, count, flat=flat):
            """Bytes from a place of the tensor on."""
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
