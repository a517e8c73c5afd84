"""The mini world, trained from inside the checkout by its own recipe."""

import sys

from speechbrain_ext.training.faults import as_yaml
from upstream.full_yaml import full_yaml
from upstream.layout import RECIPES, ROOT
from upstream.rows import plain_values

STEPS = 400
# Blind guessing scores above 90; 400 steps bring the mini world to about 5.
WER = 20.0


def mini_world_commands(python, work, cached=True):
    """Build the world here, train there, look at the score."""
    recipe = RECIPES[0]
    mini = ROOT / recipe.ours / "hparams/mini.yaml"
    plain = plain_values(full_yaml(str(mini)))
    # What the mini YAML says itself; the rest is as in any YAML there.
    own = plain_values(mini.read_text("utf-8"))
    there = plain_values(full_yaml(str(mini.with_name("qwen7b.yaml"))))
    options = {
        **{key: plain[key] for key in own if key in there},
        "data_folder": str(work / "mini/LibriSpeech"),
        "results_folder": str(work / "mini"),
        "cache_features": str(work / "mini/features") if cached else None,
        "run_name": "run",
        "output_folder": str(work / "mini/run"),
        "eval_precision": plain["precision"],
        "loss_splits": [],
        "test_splits": ["test-clean"],
        "steps": STEPS,
        "warmup_steps": 50,
        "warmdown_steps": STEPS - 50,
        "valid_interval": STEPS,
    }
    flags = [f"--{key}={as_yaml(value)}" for key, value in options.items()]
    looking = (
        "import json, sys\n"
        "run = json.load(open(sys.argv[1]))\n"
        "value = run['scores']['test-clean']['value']\n"
        f"print('WER', value)\nassert value < {WER}"
    )
    corpus = ["-m", "speechllm.mini_world.corpus", str(work / "mini")]
    train = [
        python,
        f"{recipe.theirs}/train.py",
        f"{recipe.theirs}/hparams/qwen7b.yaml",
        *flags,
        "--device=cpu",
    ]
    return [
        [sys.executable, *corpus],
        train,
        # Typed again, it finds the run finished.
        train,
        [python, "-c", looking, str(work / "mini/run/result.json")],
    ]
