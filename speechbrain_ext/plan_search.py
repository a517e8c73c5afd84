"""Choose removal plans for a recipe's baseline, on its validation sets.

Authors
 * The speechbrain_ext authors, 2026
"""

import copy
import os

import torch
from speechbrain.utils.distributed import ddp_broadcast, run_on_main
from transformers import AutoModelForCausalLM

from speechbrain_ext.blocks import ranges
from speechbrain_ext.data_sets import texts
from speechbrain_ext.decoder import decoder_config
from speechbrain_ext.distance_table import RedundancyTable
from speechbrain_ext.paths import speech_batches, text_batches
from speechbrain_ext.plans import is_plans, load_plans, save_plans
from speechbrain_ext.results import load_run
from speechbrain_ext.results.run import RESULT_FILE
from speechbrain_ext.rules import (
    UNSEARCHED,
    Budget,
    RuleData,
    choose_plans,
    find_rule,
)
from speechbrain_ext.rules.data import UTTERANCES
from speechbrain_ext.rules.interface import check_size


def plan_file(run_folder, rule, kind="speech", position="target"):
    """Where a baseline's plans of a rule stand.

    Arguments
    ---------
    run_folder : str
        The baseline's output folder.
    rule : str
        The rule's name.
    kind : str
        "speech" or "text".
    position : str
        "target" or "prompt"; matters to the angular rule only.

    Returns
    -------
    str

    Example
    -------
    >>> plan_file("results/base", "greedy-layers", "text")
    'results/base/plan-greedy-layers-text.json'
    """
    mark = "" if kind == "speech" or rule in UNSEARCHED else f"-{kind}"
    if rule == "angular" and position != "target":
        mark += f"-{position}"
    return os.path.join(run_folder, f"plan-{rule}{mark}.json")


def search_plans(
    experiment, rule, sizes, kind="speech", utterances=UTTERANCES, seconds=None
):
    """Choose plans of some sizes and save them beside the baseline.

    Sizes that the file holds already, chosen for the same baseline on the
    same data, are kept; other content is replaced. The file is written after
    each size, so that a search that was stopped goes on with the next.

    Arguments
    ---------
    experiment : speechbrain_ext.experiment.Experiment
        Of the baseline, or of a pruned run that names it.
    rule : str
        One of `speechbrain_ext.rules.RULES`.
    sizes : list of int
        Layers to remove.
    kind : str
        "speech" or "text": what goes through the decoder.
    utterances : int
        Most utterances of the validation sets to choose on, spread evenly
        over them. The angular rule takes the baseline's table, of all.
    seconds : float or None
        What the search of one size may take.

    Returns
    -------
    str
        The file.

    Raises
    ------
    ValueError
        If there is no such rule, so many layers cannot go, or the data are
        too few.

    Example
    -------
    >>> search_plans(experiment, "greedy-layers", [2, 4])  # doctest: +SKIP
    'results/base/plan-greedy-layers.json'
    """
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
    if rule in UNSEARCHED:
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
    if rule == "angular" or rule in UNSEARCHED:
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

    Example
    -------
    >>> from speechbrain.dataio.dataset import DynamicItemDataset
    >>> rows = {str(number): {} for number in range(6)}
    >>> spread(DynamicItemDataset(rows), 3).data_ids
    ['0', '2', '4']
    """
    some, there = copy.copy(dataset), len(dataset)
    most = min(most, there)
    some.data_ids = [
        dataset.data_ids[place * there // most] for place in range(most)
    ]
    return some


def plan_lines(plans):
    """Plans in lines to be read, with what they cost.

    Arguments
    ---------
    plans : list of speechbrain_ext.plans.Plan
        Of one rule.

    Returns
    -------
    list of str

    Example
    -------
    >>> from speechbrain_ext.plans import Plan
    >>> for line in plan_lines([Plan([1, 2], "deepest", 4)]):
    ...     print(line)
    size  value    seconds  layer passes  layers
       2  -            0.0             0  1-2
    """
    lines = ["size  value    seconds  layer passes  layers"]
    for plan in plans:
        value = "-" if plan.value is None else f"{plan.value:.4f}"
        lines.append(
            f"{plan.size:4d}  {value:7s}  {plan.about.get('seconds', 0):7.1f}"
            f"  {plan.about.get('layer_passes', 0):12d}  {ranges(plan.layers)}"
        )
    return lines
