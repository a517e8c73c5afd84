"""Which layers a run removes: on a measured path, or as a plan says."""

from __future__ import annotations

import os
import time

from speechbrain.utils.distributed import ddp_broadcast, run_on_main

from speechbrain_ext.data.batches import targets_of, to_device
from speechbrain_ext.data.sets import texts
from speechbrain_ext.later import later
from speechbrain_ext.layers.distances import RedundancyTable, measure
from speechbrain_ext.layers.removal import Removal, ranges
from speechbrain_ext.model.prompt import assemble
from speechbrain_ext.runs.files import format_of
from speechbrain_ext.training.checkpoints import same_random_state

INPUTS = ("speech", "text")


def choose_layers(experiment, begun_with=None):
    """The layers that an experiment removes, and whose path chose them.

    Arguments
    ---------
    experiment : Experiment
        Settings used: prune_layers, path_from, position, backbone. The
        baseline's table is measured where it is missing.
    begun_with : list of int or None
        The layers that an earlier start of the run kept.

    Returns
    -------
    removed : Block, Plan or None
        None where nothing is pruned.
    path : dict or None
        For the result.

    Raises
    ------
    ValueError
        If the path is another model's, or names other layers than it did.
    """
    hparams, layers = experiment.hparams, experiment.layers
    size, wanted = hparams["prune_layers"], hparams["path_from"]
    if not size:
        _refuse_others(experiment, None, begun_with)
        return None, None
    file = find_table(experiment, wanted) if wanted in INPUTS else wanted
    name = hparams["backbone"]["name"]
    removed, about = read_path(file, size, layers, name)
    print(
        f"Removing layers {ranges(removed)} of {name}'s {layers} "
        f"(path from {wanted})."
    )
    _refuse_others(experiment, removed, begun_with)
    return removed, {"from": whose_path(wanted, about), **about}


def _refuse_others(experiment, removed, begun_with):
    """Refuse to go on where a path names other layers than it did."""
    kept = list(Removal.of(removed, experiment.layers).kept)
    if begun_with is not None and begun_with != kept:
        raise ValueError(
            f"path_from: {experiment.hparams['path_from']} keeps layers "
            f"{ranges(kept)}, but {experiment.folder} was begun with "
            f"{ranges(begun_with)}. Give another --run_name, or remove that "
            "folder."
        )


def table_file(run_folder: str, kind: str, position: str = "target") -> str:
    """Where a baseline's table of a kind of input stands.

    Arguments
    ---------
    run_folder : str
        The baseline's output folder.
    kind : str
        "speech" or "text".
    position : str
        "target" or "prompt".

    Returns
    -------
    str
    """
    mark = "" if position == "target" else f"-{position}"
    return os.path.join(run_folder, f"redundancy-{kind}{mark}.json")


def find_table(experiment, kind):
    """The file of the baseline's table; measured where it is missing."""
    position = experiment.hparams["position"]
    file = table_file(experiment.baseline, kind, position)
    # The main process decides: another may look when it is written.
    if not ddp_broadcast(os.path.isfile(file), src=0):
        measure_table(experiment, kind)
    return file


def measure_table(experiment, kind):
    """Measure the baseline's redundancy table and save it.

    Arguments
    ---------
    experiment : Experiment
        Its baseline, or its own finished run, is measured on its validation
        sets.
    kind : str
        "speech" or "text".

    Returns
    -------
    str
        The file.
    """
    hparams, position = experiment.hparams, experiment.hparams["position"]
    file = table_file(experiment.baseline, kind, position)
    print(f"Measuring redundancy on {kind} into {file}")
    about = {
        "model": hparams["backbone"]["name"],
        "encoder": hparams["speech_encoder"]["name"],
        "task": hparams["task"],
        "run": os.path.basename(os.path.normpath(experiment.baseline)),
        "data": list(hparams["valid_splits"]),
    }
    valid = experiment.datasets["valid"]
    began = time.monotonic()
    if kind == "speech":
        experiment.open_encoder()
    # What is trained after this is what it is with a table that was there.
    with same_random_state():
        if kind == "speech":
            brain = experiment.whole_brain()
            table = measure_speech(brain, valid, about, position)
        else:
            about.pop("encoder")
            table = measure_text(
                hparams["load_decoder"](device=experiment.device),
                experiment.prompt,
                texts(valid),
                about,
                hparams["test_batch_size"],
                position=position,
                prompted=hparams["text_input"] == "prompted",
            )
    table.provenance["seconds"] = time.monotonic() - began
    run_on_main(table.save, args=[file])
    return file


def speech_batches(brain, dataset):
    """Assembled speech, prompt and target of a set, for `measure`."""
    for batch in brain.shard(dataset):
        batch = to_device(batch, brain.device)
        with brain.evaluation_ctx:
            x_BSF, tokens_B = brain.speech_of(batch)
            sequence = brain.model.sequence(x_BSF, tokens_B, targets_of(batch))
        yield {**_as_batch(sequence), "id": batch.id}


def text_batches(decoder, prompt, texts, batch_size, prompted=False):
    """Rows of text alone, for `measure`: no speech model is needed."""
    texts = sorted(texts, key=len, reverse=True)
    for first in range(0, len(texts), batch_size):
        part = texts[first : first + batch_size]
        targets = [prompt.encode_target(text) for text in part]
        # As speech would be; or the text alone, and nothing before it.
        around, end = (prompt, -1) if prompted else (prompt.plain(), 0)
        spoken = [decoder.embed(t[:end].to(decoder.device)) for t in targets]
        yield _as_batch(assemble(around, spoken, decoder.embed, targets))


def _as_batch(sequence):
    """Rows as `measure` and the rules of removal plans take them (dict)."""
    return {
        **sequence.as_inputs(),
        "prompt_lengths": sequence.prompt_lengths_B,
        "labels": sequence.labels_BQ,
    }


def measure_speech(brain, dataset, provenance, position="target"):
    """Table of a baseline on speech."""
    return measure(
        brain.model.decoder,
        speech_batches(brain, dataset),
        position=position,
        provenance={**provenance, "input": "speech"},
        across_ranks=True,
    )


def measure_text(decoder, prompt, texts, provenance, batch_size=16, **options):
    """Table of a backbone on text alone."""
    position = options.get("position", "target")
    prompted = options.get("prompted", False)
    if position == "prompt" and not prompted:
        raise ValueError(
            "position: prompt needs a prompt: with text as input, set "
            "text_input: prompted."
        )
    return measure(
        decoder,
        text_batches(decoder, prompt, texts, batch_size, prompted),
        position=position,
        provenance={**provenance, "input": "text", "prompted": prompted},
    )


def read_path(file, size, num_layers, name):
    """The layers of a size on the path of a saved table, or of a plan."""
    if "plans" in format_of(file):
        plans = later("layers.plans", "path_from")
        plan = plans.plan_of_size(file, size, num_layers, name)
        return plan, {"file": os.path.basename(file), **plans.about(plan)}
    table = RedundancyTable.load(file)
    table.check_model(num_layers, name, file)
    block = table.best(size)
    distance = float(table.distances[size - 1, block.start])
    return block, {
        "file": os.path.basename(file),
        "rule": "angular",
        "layers": list(block.removed),
        "distance": distance,
        "count": table.count,
        **table.provenance,
    }


def whose_path(wanted, about):
    """Whose path a run removed layers by, in a word or two."""
    if wanted in INPUTS:
        return wanted
    told = [str(about[key]) for key in ("task", "input") if about.get(key)]
    if "distance" not in about and about.get("rule"):
        return " ".join([*told, about["rule"]])
    return " ".join(told) if len(told) == 2 else os.path.basename(wanted)
