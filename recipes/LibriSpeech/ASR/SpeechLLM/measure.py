#!/usr/bin/env python3
"""Measure which decoder layers of a trained baseline are redundant.

    python measure.py hparams/qwen7b.yaml --input speech --data_folder ...
    python measure.py hparams/qwen7b.yaml --input text --data_folder ...

Writes the table of angular distances beside the baseline and prints the
pruning path. Text needs no trained speech model.

Authors
 * The speechbrain_ext authors, 2026
"""

import argparse
import sys

from speechbrain_ext.distance_table import RedundancyTable
from speechbrain_ext.paths import INPUTS
from train import prepare_experiment


def main(argv):
    """Measure, save and print.

    Arguments
    ---------
    argv : list of str
        The command line after the script's name.
    """
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--input", choices=INPUTS, required=True)
    own, rest = parser.parse_known_args(argv)
    file = prepare_experiment(rest).measure(own.input)
    table = RedundancyTable.load(file)
    print(f"{file}: {table.count} sequences")
    print("size  start  distance")
    for block in table.path():
        distance = table.distances[block.size - 1, block.start]
        print(f"{block.size:4d}  {block.start:5d}  {distance:.4f}")


if __name__ == "__main__":
    main(sys.argv[1:])
