"""What a recipe's ``measure.py`` does: a redundancy table, or removal plans."""

from __future__ import annotations

import argparse
import copy
import os

import torch
from speechbrain.utils.distributed import (
    ddp_broadcast,
    if_main_process,
    run_on_main,
)
from transformers import AutoModelForCausalLM

from speechbrain_ext.data.sets import texts
from speechbrain_ext.layers.distances import RedundancyTable
from speechbrain_ext.layers.plans import is_plans, load_plans, save_plans
from speechbrain_ext.layers.removal import ranges
from speechbrain_ext.layers.rules import (
    RULES,
    check_size,
    choose_plans,
    find_rule,
)
from speechbrain_ext.layers.search import UTTERANCES, Budget, RuleData
from speechbrain_ext.layers.weights import source_config
from speechbrain_ext.runs.result import RESULT_FILE, load_run
from speechbrain_ext.training.choose_layers import (
    INPUTS,
    find_table,
    measure_table,
    speech_batches,
    text_batches,
)


def measure_command(argv, prepare_experiment):
    """A recipe's ``measure.py``: measure and save a table, or choose plans.

    Arguments
    ---------
    argv : list of str
        The command line after the script's name: ``--input speech`` or
        ``--input text``, and what ``train.py`` takes. With ``--rule`` and
        ``--layers`` (and ``--utterances``, ``--seconds``), removal plans
        instead of a table.
    prepare_experiment : callable
        The recipe's; the rest of the command line to an `Experiment`.
    """
    parser = measure_parser()
    own, rest = parser.parse_known_args(argv)
    if {"-h", "--help"} & set(rest):
        parser.print_help()
        print("\nAnd all that train.py takes:\n")
        prepare_experiment(rest)
    if own.rule is None and own.input is None:
        parser.error("give --input speech, --input text, or --rule NAME")
    if (own.rule is None) != (own.sizes is None):
        parser.error("--rule NAME and --layers N [N ...] belong together")
    experiment = prepare_experiment(rest)
    if own.rule is not None:
        _search(experiment, own)
        return
    file = measure_table(experiment, own.input)
    if not if_main_process():
        return
    table = RedundancyTable.load(file)
    print(f"{file}: {table.count} sequences")
    print("size  start  distance")
    for block in table.path():
        distance = table.distances[block.size - 1, block.start]
        print(f"{block.size:4d}  {block.start:5d}  {distance:.4f}")


def measure_parser() -> argparse.ArgumentParser:
    """What ``measure.py`` takes besides what ``train.py`` does."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)

    def takes(*names, **how):
        """One more option."""
        parser.add_argument(*names, **how)

    takes("--input", choices=INPUTS, help="measure on speech, or on its text")
    takes("--rule", choices=RULES, help="choose layers by it instead")
    takes(
        "--layers",
        "--sizes",
        dest="sizes",
        metavar="N",
        type=int,
        nargs="+",
        help="with --rule: how many to remove (--sizes: its former name)",
    )
    takes(
        "--utterances",
        metavar="N",
        type=int,
        default=UTTERANCES,
        help="of the validation sets, that a rule looks at (%(default)s)",
    )
    takes("--seconds", metavar="S", type=float, help="that a rule may take")
    return parser


def _search(experiment, own):
    """Choose, save and print plans."""
    file = search_plans(
        experiment,
        own.rule,
        own.sizes,
        own.input or "speech",
        own.utterances,
        own.seconds,
    )
    if if_main_process():
        plans = load_plans(file)
        print(f"{file}: {plans[0].data}")
        print(*plan_lines(plans), sep="\n")


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
    file = plan_file(experiment.baseline, rule, kind, hparams["position"])
    about = _about(experiment, rule, kind, utterances)
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


def _about(experiment, rule, kind, utterances):
    """What plans are chosen on, as it is stored with them (dict)."""
    hparams, folder = experiment.hparams, experiment.baseline
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
        experiment.open_encoder()
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
        data.table = RedundancyTable.load(find_table(experiment, kind))
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
    config = source_config(backbone["source"], backbone.get("revision"))
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def spread(dataset, most):
    """At most so many utterances of a set, spread evenly over it."""
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
