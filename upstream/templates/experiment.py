"""What a recipe's script does by SpeechBrain's own conventions."""

# ruff: noqa: F821 (the names stand in the recipe's train.py)

import speechbrain as sb
from hyperpyyaml import load_hyperpyyaml
from speechbrain.utils.distributed import run_on_main

from speechbrain_ext.training.experiment import Experiment, load_prompt
from speechbrain_ext.training.faults import ConfigError
from speechbrain_ext.training.settings import speechllm_rules


def prepare_experiment(argv):
    """The experiment of a command line, its data prepared."""
    hparams_file, run_opts, overrides = sb.parse_arguments(argv)

    # Before anything is built: each process must know its own device
    sb.utils.distributed.ddp_init_group(run_opts)

    with open(hparams_file, encoding="utf-8") as fin:
        hparams = load_hyperpyyaml(fin, overrides)
    faults = speechllm_rules(hparams)
    if faults:
        raise ConfigError(hparams_file, faults)

    # Create experiment directory
    sb.create_experiment_directory(
        experiment_directory=hparams["output_folder"],
        hyperparams_to_save=hparams_file,
        overrides=overrides,
    )

    # Data preparation, to be run on only one process
    run_on_main(prepare, kwargs={"hparams": hparams})
    prompt = load_prompt(hparams)
    datasets = dataio_prepare(hparams, prompt)

    return Experiment(
        hparams["experiment"], run_opts, datasets, prompt, hparams["score"]
    )
