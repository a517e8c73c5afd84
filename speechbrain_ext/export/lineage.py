"""What an export says of where it came from, without any machine's paths.

Authors
 * The speechbrain_ext authors, 2026
"""

import glob
import os

import yaml
from transformers.utils import cached_file, extract_commit_hash

from speechbrain_ext.results import read_utterances

LICENCE_FILES = (
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
    "NOTICE",
    "NOTICE.txt",
    "USE_POLICY.md",
)
# Seconds; where no run tells how long its utterances were.
USUAL_PIECE = 30.0


def public_source(source, name):
    """A hub id as it is; a local folder by its short name alone.

    Arguments
    ---------
    source : str
        Hub id or local folder.
    name : str
        The short name.

    Returns
    -------
    str
    """
    return name if os.path.isdir(source) else str(source)


def commit_of(source, revision):
    """The commit of a hub model that lies in the cache (str), or None."""
    if os.path.isdir(source):
        return None
    path = cached_file(
        source,
        "config.json",
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return extract_commit_hash(path, None) or revision


def source_file(source, name, revision=None):
    """Path of a file of a hub model or a folder (str), or None."""
    if os.path.isdir(source):
        path = os.path.join(source, name)
        return path if os.path.isfile(path) else None
    return cached_file(
        source,
        name,
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )


def licence_of(source, revision=None):
    """Licence of a model, as its card's head says it.

    Arguments
    ---------
    source : str
        Hub id or local folder.
    revision : str or None
        Branch, tag or commit.

    Returns
    -------
    dict
        The card's ``license``, ``license_name`` and ``license_link``, those
        that are there.
    """
    path = source_file(source, "README.md", revision)
    if path is None:
        return {}
    with open(path, encoding="utf-8", errors="replace") as stream:
        parts = stream.read().split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        return {}
    try:
        head = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return {}
    keys = ("license", "license_name", "license_link")
    head = head if isinstance(head, dict) else {}
    return {key: str(head[key]) for key in keys if head.get(key)}


def licence_files(source, revision=None):
    """Licence texts of a model: name to path (dict)."""
    found = {n: source_file(source, n, revision) for n in LICENCE_FILES}
    return {name: path for name, path in found.items() if path}


def longest_seconds(run_folder):
    """The longest utterance that a run was scored on, in seconds.

    Longer audio is cut into pieces of at most this length: what lies beyond
    it the model has never been seen to do.

    Arguments
    ---------
    run_folder : str
        A finished run's folder.

    Returns
    -------
    float
    """
    durations = [
        row["duration"]
        for path in glob.glob(os.path.join(run_folder, "hypotheses-*.jsonl"))
        for row in read_utterances(path)
        if row.get("duration")
    ]
    # Above, never below, whatever the rounding.
    return round(max(durations) + 0.05, 1) if durations else USUAL_PIECE


def about_run(run):
    """A run's lineage and scores, for `task.json` and the card.

    Arguments
    ---------
    run : speechbrain_ext.trained_run.TrainedRun
        A finished run.

    Returns
    -------
    dict
    """
    result = run.result
    backbone = run.settings["backbone"]
    encoder = run.settings["speech_encoder"]
    path = dict(result.path or {})
    if path.get("from"):
        path["from"] = os.path.basename(str(path["from"]))
    return {
        "run": result.name,
        "backbone": {
            "name": backbone["name"],
            "source": public_source(backbone["source"], backbone["name"]),
            "revision": commit_of(backbone["source"], backbone.get("revision")),
        },
        "encoder": public_source(encoder["source"], encoder["name"]),
        "layers": result.layers,
        "kept_layers": list(run.kept),
        "healing": result.healing if result.removed else None,
        "baseline_adapter": result.adapter,
        "path": path or None,
        "steps": result.steps,
        "trainable": result.trainable,
        "lowercase_targets": run.settings.get("lowercase_targets"),
        "train": run.settings.get("train_splits"),
        "data": result.data,
        "scores": {
            name: {
                "metric": one.metric,
                "value": one.value,
                "interval": one.interval,
                "utterances": one.utterances,
                "signature": one.signature,
                "language": one.language,
                "normaliser": one.normaliser,
                "hit_limit": one.hit_limit,
            }
            for name, one in result.scores.items()
        },
        "versions": result.versions,
    }
