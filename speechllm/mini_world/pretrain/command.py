"""Pretrain the mini models; the package ships what this made.

``python -m speechllm.mini_world.pretrain [MODEL ...] --output DIR``
trains each model named (all of them if none is) on one core and writes it as
a Hugging Face folder in half precision, with the figures of its training in
``training.json``. Each takes about half an hour on a core of its own.
`make mini-models` makes the decoders that the package does not ship.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

import torch

from speechbrain_ext.runs.files import write_text
from speechllm.mini_world.pretrain.decoders import DecoderTraining
from speechllm.mini_world.pretrain.encoders import EncoderTraining

MODELS_FOLDER = str(Path(__file__).parents[1] / "models")
# All sizes of a family go through the same stages, so that nothing but the
# depth tells them apart. The first of Qwen2's is the head of a longer
# schedule.
QWEN2 = {
    "family": "Qwen2",
    "residual_scaling": False,
    "stages": [
        {"steps": 5000, "stopped_at": 2000, "learning_rate": 3e-3, "seed": 0},
        {"steps": 1200, "learning_rate": 2.5e-3, "seed": 10},
    ],
}
LLAMA = {
    "family": "Llama",
    "residual_scaling": False,
    "stages": [{"steps": 3000, "learning_rate": 3e-3, "seed": 1}],
}
DECODERS: dict[str, dict] = {
    "mini-qwen2": {**QWEN2, "layers": 12},
    "mini-llama": {**LLAMA, "layers": 12},
    "mini-qwen2-8": {**QWEN2, "layers": 8},
    "mini-llama-8": {**LLAMA, "layers": 8},
    # Left unscaled, layers grow redundant together; a single schedule to its
    # end, because going on from a stage that was stopped blurs the block.
    "mini-qwen2-block": {
        "family": "Qwen2",
        "layers": 12,
        "residual_scaling": False,
        "stages": [{"steps": 2000, "learning_rate": 3e-3, "seed": 2}],
    },
}
ENCODERS: dict[str, dict] = {
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


def pretrain(
    name: str, output: str, scratch: str | None = None, **changes
) -> list[dict]:
    """Pretrain one model."""
    if name not in MODELS:
        raise ValueError(f"model: no '{name}', choose from {MODELS}")
    folder = os.path.join(output, name)
    os.makedirs(output, exist_ok=True)
    if name in DECODERS:
        return _pretrain_decoder(name, folder, changes)
    settings = dict(ENCODERS[name], **changes)
    with tempfile.TemporaryDirectory() as temporary:
        log = EncoderTraining(
            output=folder, scratch=scratch or temporary, **settings
        ).run()
    _write_record(folder, name, settings, log[-1])
    return log


def is_pretrained(name: str, folder: str) -> bool:
    """Whether a model went through all stages of its pretraining."""
    wanted = len(DECODERS[name]["stages"]) if name in DECODERS else 1
    return len(_recorded(folder)) >= wanted


def decoder_stages(name: str, folder: str, **changes) -> list[dict]:
    """The settings of each stage of a decoder's pretraining."""
    shape = {k: v for k, v in DECODERS[name].items() if k != "stages"}
    stages = DECODERS[name]["stages"]
    if changes:
        return [{**shape, **stages[-1], **changes}]
    return [
        {**shape, **stage, **({"start_from": folder} if number else {})}
        for number, stage in enumerate(stages)
    ]


def _pretrain_decoder(name, folder, changes):
    """One stage after the other; the log of the last."""
    for settings in decoder_stages(name, folder, **changes):
        # Read before the training writes a new folder in its place.
        earlier = _earlier_stages(settings)
        log = DecoderTraining(output=folder, **settings).run()
        _write_record(folder, name, settings, log[-1], earlier)
    return log


def _earlier_stages(settings):
    """The trainings that the starting weights went through."""
    earlier = settings.get("start_from")
    return _recorded(earlier) if earlier else []


def _recorded(folder):
    file = Path(folder, RECORD)
    if not file.exists():
        return []
    return json.loads(file.read_text(encoding="utf-8"))["stages"]


def _write_record(folder, name, settings, figures, earlier=None):
    """Add this training to those that its starting weights come from."""
    stages = _earlier_stages(settings) if earlier is None else earlier
    # Where it lay on one machine means nothing on another.
    settings = {k: v for k, v in settings.items() if k != "start_from"}
    stages = [*stages, {"settings": settings, "figures": figures}]
    record = json.dumps({"model": name, "stages": stages}, indent=1)
    write_text(Path(folder, RECORD), record + "\n")


def main() -> None:
    """Read the command line and pretrain."""
    parser = argparse.ArgumentParser(
        prog="python -m speechllm.mini_world.pretrain",
        description=__doc__.split("\n")[0],
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help=str(MODELS))
    parser.add_argument("--output", default=MODELS_FOLDER)
    parser.add_argument("--scratch", help="keeps the encoders' speech")
    parser.add_argument("--steps", type=int, help="in place of the model's own")
    parser.add_argument("--start_from", help="folder of weights to go on from")
    parser.add_argument("--learning_rate", type=float)
    parser.add_argument("--seed", type=int)
    parser.add_argument(
        "--missing", action="store_true", help="only those not there yet"
    )
    arguments = parser.parse_args()
    # More threads are slower at this size, and sum in another order.
    torch.set_num_threads(1)
    given = vars(arguments)
    wanted = ("steps", "start_from", "learning_rate", "seed")
    changes = {k: given[k] for k in wanted if given[k] is not None}
    for name in arguments.models or MODELS:
        folder = os.path.join(arguments.output, name)
        if arguments.missing and is_pretrained(name, folder):
            print(f"{folder} is there already; nothing to do.")
            continue
        pretrain(name, arguments.output, arguments.scratch, **changes)
