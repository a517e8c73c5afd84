"""Pretrain the mini models; the package ships what this made.

``python -m speechbrain_ext.mini_world.pretrain [MODEL ...] --output DIR``
trains each model named (all of them if none is) on one core and writes it as
a Hugging Face folder in half precision, with the figures of its training in
``training.json``. Each takes about half an hour on a core of its own.

Authors
 * The speechbrain_ext authors, 2026
"""

import argparse
import json
import os
import tempfile

import torch

from speechbrain_ext.mini_world.decoders import DecoderTraining
from speechbrain_ext.mini_world.encoders import EncoderTraining

MODELS_FOLDER = os.path.join(os.path.dirname(__file__), "models")
DECODERS = {
    "mini-qwen2": {"family": "Qwen2", "steps": 3200, "seed": 0},
    "mini-llama": {"family": "Llama", "steps": 3000, "seed": 1},
}
ENCODERS = {
    "mini-wavlm": {
        "kind": "wavlm",
        "languages": {"en": 12000},
        "steps": 5000,
        "seed": 0,
    },
    "mini-whisper": {
        "kind": "whisper",
        "languages": {"fr": 10000},
        "seconds": 36,
        "steps": 6000,
        "seed": 0,
    },
}
RECORD = "training.json"
MODELS = [*DECODERS, *ENCODERS]


def pretrain(name, output, scratch=None, **changes):
    """Pretrain one model.

    Arguments
    ---------
    name : str
        One of ``MODELS``.
    output : str
        Folder that receives the model's folder.
    scratch : str
        Folder for the speech that encoders learn from, to be used again; a
        temporary one when left out.
    **changes
        Settings to use in place of the model's own.

    Returns
    -------
    list of dict
        The logged figures, the last entry being those of the whole training.

    Raises
    ------
    ValueError
        When there is no such model.
    """
    if name not in MODELS:
        raise ValueError(f"model: no '{name}', choose from {MODELS}")
    folder = os.path.join(output, name)
    os.makedirs(output, exist_ok=True)
    settings = dict(DECODERS.get(name) or ENCODERS[name], **changes)
    if name in DECODERS:
        log = DecoderTraining(output=folder, **settings).run()
    else:
        with tempfile.TemporaryDirectory() as temporary:
            log = EncoderTraining(
                output=folder, scratch=scratch or temporary, **settings
            ).run()
    _write_record(folder, name, settings, log[-1])
    return log


def _write_record(folder, name, settings, figures):
    """Add this training to those that its starting weights come from."""
    stages = []
    earlier = settings.get("start_from")
    if earlier and os.path.exists(os.path.join(earlier, RECORD)):
        with open(os.path.join(earlier, RECORD), encoding="utf-8") as file:
            stages = json.load(file)["stages"]
    stages.append({"settings": settings, "figures": figures})
    with open(os.path.join(folder, RECORD), "w", encoding="utf-8") as file:
        json.dump({"model": name, "stages": stages}, file, indent=1)
        file.write("\n")


def main():
    """Read the command line and pretrain."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", help=str(MODELS))
    parser.add_argument("--output", default=MODELS_FOLDER)
    parser.add_argument("--scratch", help="keeps the encoders' speech")
    parser.add_argument("--steps", type=int, help="in place of the model's own")
    parser.add_argument("--start_from", help="folder of weights to go on from")
    parser.add_argument("--learning_rate", type=float)
    parser.add_argument("--seed", type=int)
    arguments = parser.parse_args()
    # More threads are slower at this size, and sum in another order.
    torch.set_num_threads(1)
    given = vars(arguments)
    wanted = ("steps", "start_from", "learning_rate", "seed")
    changes = {k: given[k] for k in wanted if given[k] is not None}
    for name in arguments.models or MODELS:
        pretrain(name, arguments.output, arguments.scratch, **changes)


if __name__ == "__main__":
    main()
