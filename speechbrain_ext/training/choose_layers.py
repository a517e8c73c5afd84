"""Which layers a run removes: measured paths, found, made or read."""

import copy
import os

import torch
from speechbrain.utils.distributed import ddp_broadcast, run_on_main
from transformers import AutoModelForCausalLM

from speechbrain_ext.data.batches import targets_of
from speechbrain_ext.data.sets import texts
from speechbrain_ext.layers.distances import RedundancyTable, measure
from speechbrain_ext.layers.plans import (
    is_plans,
    load_plans,
    plan_of_size,
    save_plans,
)
from speechbrain_ext.layers.removal import ranges
from speechbrain_ext.layers.rules import (
    check_size,
    choose_plans,
    find_rule,
)
from speechbrain_ext.layers.search import UTTERANCES, Budget, RuleData
from speechbrain_ext.model.decoder import decoder_config
from speechbrain_ext.model.prompt import assemble
from speechbrain_ext.runs.result import RESULT_FILE, load_run

INPUTS = ("speech", "text")


def table_file(run_folder, kind, position="target"):
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


def speech_batches(brain, dataset):
    """Assembled speech, prompt and target of a set, for `measure`."""
    for batch in brain.shard(dataset):
        batch = batch.to(brain.device)
        with brain.evaluation_ctx:
            x_BSF, tokens_B = brain.speech_of(batch)
            sequence = brain.model.sequence(x_BSF, tokens_B, targets_of(batch))
        yield _as_batch(sequence)


def text_batches(decoder, prompt, texts, batch_size, prompted=False):
    """Rows of text alone, for `measure`: no speech model is needed."""
    texts = sorted(texts, key=len, reverse=True)
    for first in range(0, len(texts), batch_size):
        part = texts[first : first + batch_size]
        targets = [prompt.encode_target(text) for text in part]
        if prompted:
            spoken = [
                decoder.embed(target[:-1].to(decoder.device))
                for target in targets
            ]
            sequence = assemble(prompt, spoken, decoder.embed, targets)
        else:
            nothing = torch.zeros(0, decoder.width, device=decoder.device)
            nothing = nothing.to(decoder.dtype)
            sequence = assemble(
                prompt.plain(), [nothing] * len(part), decoder.embed, targets
            )
        yield _as_batch(sequence)


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
        position,
        {**provenance, "input": "speech"},
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
        position,
        {**provenance, "input": "text", "prompted": prompted},
    )


def read_path(file, size, num_layers, name):
    """The layers of a size on the path of a saved table, or of a plan."""
    if is_plans(file):
        plan = plan_of_size(file, size, num_layers, name)
        return plan, {"file": os.path.basename(file), **_of_plan(plan)}
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


def _of_plan(plan):
    """What a run's result tells of its plan (dict)."""
    return {
        **plan.about,
        **plan.data,
        "model": plan.model,
        "rule": plan.rule,
        "layers": list(plan.layers),
        "value": plan.value,
    }


def whose_path(wanted, about):
    """Whose path a run removed layers by, in a word or two."""
    if wanted in INPUTS:
        return wanted
    told = [str(about[key]) for key in ("task", "input") if about.get(key)]
    if "distance" not in about and about.get("rule"):
        return " ".join([*told, about["rule"]])
    return " ".join(told) if len(told) == 2 else os.path.basename(wanted)


# ----------------------------------------------------------------------------
# Choose removal plans for a recipe's baseline, on its validation sets.


def plan_file(run_folder, rule, kind="speech", position="target"):
    """Where a baseline's plans of a rule stand."""
    any_kind = kind == "speech" or not find_rule(rule).needs
    mark = "" if any_kind else f"-{kind}"
    if rule == "angular" and position != "target":
        mark += f"-{position}"
    return os.path.join(run_folder, f"plan-{rule}{mark}.json")


def search_plans(
    experiment, rule, sizes, kind="speech", utterances=UTTERANCES, seconds=None
):
    """Choose plans of some sizes and save them beside the baseline."""
    find_rule(rule)
    for size in sizes:
        check_size(size, experiment.layers)
    hparams = experiment.hparams
    folder = hparams["baseline"] or experiment.folder
    file = plan_file(folder, rule, kind, hparams["position"])
    about = _about(experiment, folder, rule, kind, utterances)
    # The main process decides: another may look when it is written.
    found = ddp_broadcast(_earlier(file, rule, about), src=0)
    left = [size for size in sizes if size not in found]
    if not left:
        return file
    print(f"Choosing layers by {rule} into {file}")
    model, data = _load(experiment, rule, kind, about)
    data.budget = Budget(seconds)
    for plan in choose_plans(rule, model, data, left):
        found[plan.size] = plan
        run_on_main(save_plans, args=[file, list(found.values())])
    return file


def _about(experiment, folder, rule, kind, utterances):
    """What plans are chosen on, as it is stored with them (dict)."""
    hparams = experiment.hparams
    about = {"model": hparams["backbone"]["name"]}
    if rule == "random":
        about["seed"] = hparams["seed"]
    if not find_rule(rule).needs:
        return about
    about["task"] = hparams["task"]
    about["input"] = kind
    about["sets"] = list(hparams["valid_splits"])
    about["run"] = os.path.basename(os.path.normpath(folder))
    if kind == "speech":
        about["encoder"] = hparams["speech_encoder"]["name"]
        # Leaves out, or refuses, what it cannot take.
        experiment.encoder  # noqa: B018
    else:
        about["prompted"] = hparams["text_input"] == "prompted"
    if os.path.isfile(os.path.join(folder, RESULT_FILE)):
        # A baseline that was trained anew is another one.
        about["trained"] = load_run(folder).finished
    there = len(experiment.datasets["valid"])
    if rule == "angular":
        about["position"] = hparams["position"]
        return about
    return {**about, "utterances": min(utterances, there)}


def _earlier(file, rule, about):
    """Plans that an earlier search left for the same data, by size."""
    if not is_plans(file):
        return {}
    data = {key: value for key, value in about.items() if key != "model"}
    return {
        plan.size: plan
        for plan in load_plans(file)
        if (plan.rule, plan.model, plan.data) == (rule, about["model"], data)
    }


def _load(experiment, rule, kind, about):
    """The decoder that a rule looks at, and the data (RuleData)."""
    hparams = experiment.hparams
    data = RuleData([], about, seed=hparams["seed"])
    if rule == "angular":
        data.table = RedundancyTable.load(experiment.table(kind))
    if rule == "angular" or not find_rule(rule).needs:
        return _depth_only(hparams["backbone"]), data
    chosen = spread(experiment.datasets["valid"], about["utterances"])
    with torch.no_grad():
        if kind == "speech":
            brain = experiment.whole_brain()
            brain.modules.eval()
            # Every process searches alone, and finds the same.
            brain.rank, brain.world_size = 0, 1
            decoder = brain.model.decoder
            data.batches = list(speech_batches(brain, chosen))
        else:
            decoder = hparams["load_decoder"](device=experiment.device)
            data.batches = list(
                text_batches(
                    decoder,
                    experiment.prompt,
                    texts(chosen),
                    hparams["test_batch_size"],
                    about["prompted"],
                )
            )
    return decoder, data


def _depth_only(backbone):
    """A causal LM without weights, for rules that count its layers."""
    config = decoder_config(backbone["source"], backbone.get("revision"))
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def spread(dataset, most):
    """Some utterances of a set, spread evenly over it.

    Arguments
    ---------
    dataset : DynamicItemDataset
        Left as it is.
    most : int
        How many at most.

    Returns
    -------
    DynamicItemDataset
    """
    some, there = copy.copy(dataset), len(dataset)
    most = min(most, there)
    some.data_ids = [
        dataset.data_ids[place * there // most] for place in range(most)
    ]
    return some


def plan_lines(plans):
    """Plans in lines to be read, with what they cost."""
    lines = ["size  value    seconds  layer passes  layers"]
    for plan in plans:
        value = "-" if plan.value is None else f"{plan.value:.4f}"
        lines.append(
            f"{plan.size:4d}  {value:7s}  {plan.about.get('seconds', 0):7.1f}"
            f"  {plan.about.get('layer_passes', 0):12d}  {ranges(plan.layers)}"
        )
    return lines
