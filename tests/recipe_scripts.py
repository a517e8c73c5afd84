"""A recipe's scripts: as typed, or as modules in this process (quicker).

Authors
 * The speechbrain_ext authors, 2026
"""

import importlib
import subprocess
import sys
from pathlib import Path

RECIPES = Path(__file__).parent.parent / "recipes"


def run_command(folder, script, *words):
    """Run a script as typed; gives what it printed."""
    done = subprocess.run(
        [sys.executable, script, *map(str, words)],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


def load_script(folder, name):
    """A recipe's script as a module; every recipe has a train.py."""
    saved = {n: sys.modules.pop(n, None) for n in ("train", name)}
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))
        for other, module in saved.items():
            sys.modules.pop(other, None)
            if module is not None:
                sys.modules[other] = module


def train(folder, yaml, options):
    """What ``python train.py hparams/YAML OPTIONS`` does; gives the result."""
    file = str(Path(folder) / "hparams" / yaml)
    module = load_script(folder, "train")
    return module.prepare_experiment([file, *map(str, options)]).run()


def quick(results, decoder, encoder, kind="wavlm", **more):
    """Options that make a mini YAML a matter of seconds."""
    options = {
        "results_folder": results,
        "backbone.source": decoder,
        "speech_encoder.source": encoder,
        "speech_encoder.kind": kind,
        "steps": 2,
        "warmup_steps": 0,
        "warmdown_steps": 2,
        "valid_interval": 2,
        "batch_size": 3,
        "loss_splits": "[]",
        "max_new_tokens": 6,
        **more,
    }
    return [f"--{key}={value}" for key, value in options.items()]
