#!/usr/bin/env python3
"""Measure which decoder layers of a trained baseline are redundant.

    python measure.py hparams/small.yaml --input speech --data_folder ...
    python measure.py hparams/small.yaml --input text --data_folder ...

Writes the table of angular distances beside the baseline and prints the
pruning path. Text needs no trained speech model.

    python measure.py hparams/small.yaml --rule greedy-layers --layers 3 6 9 ...

Chooses layers by a rule, on some of the validation sets' utterances, and
writes the plans beside the baseline, for train.py's --path_from.
"""

import sys

from speechbrain_ext.training.measure import measure_command
from speechllm.command import run_command
from train import prepare_experiment

if __name__ == "__main__":
    run_command(lambda: measure_command(sys.argv[1:], prepare_experiment))
