"""The golden world: runs, exports and models that name nothing outside it.

All its paths are relative, so that it can be copied anywhere and a process
that works in it finds models, corpus and runs.
"""

import contextlib
import io
import json
import shutil
from pathlib import Path

import soundfile
import torch
from conftest import RECIPE
from recipe_scripts import load_script
from safetensors.torch import load_file

from speechbrain_ext.training.trained_run import TrainedRun
from speechllm import report
from speechllm.cli import main as speechllm
from speechllm.exported.model import ExportedSpeechLLM

FILES = Path(__file__).parent / "files"
RUNS = {
    "base": {},
    "both": {"prune_layers": 2, "baseline": "runs/base"},
    "planned": {
        "prune_layers": 2,
        "baseline": "runs/base",
        "path_from": "runs/base/plan-greedy-layers.json",
        "healing": "decoder",
    },
    "bridge": {
        "prune_layers": 2,
        "baseline": "runs/base",
        "healing": "bridge",
        "lora_dropout": 0.1,
    },
    "folded": {
        "prune_layers": 1,
        "baseline": "runs/base",
        "path_from": "inner.json",
        "healing": "map_folded",
    },
    "lora": {"adapt_attention": True, "speech_markers": True},
    "lora_both": {
        "prune_layers": 2,
        "baseline": "runs/lora",
        "speech_markers": True,
    },
    # Another task on the layers of `both`, for an export with two.
    "other": {
        "prune_layers": 2,
        "baseline": "runs/base",
        "path_from": "runs/base/redundancy-speech.json",
        "task": "AST en-de",
        "seed": 5,
    },
}
EXPORTS = {
    "merged": ["runs/both", "--merge"],
    # With an adapter beside the bridge.
    "bridged": ["runs/bridge"],
    "folded": ["runs/folded"],
    "tasks": ["runs/both", "runs/other"],
}
STOPPED = "bridge"


def open_world(folder, files=FILES):
    """Copy the golden world; work in the copy (it names nothing outside)."""
    shutil.copytree(files / "world", folder)
    settings = Path(folder) / "tiny.yaml"
    text = settings.read_text().replace("RECIPE", str(RECIPE))
    settings.write_text(text)
    return Path(folder)


def words(name, results="runs", **changes):
    """A run's command line, as typed in the world."""
    fixed = ["tiny.yaml", "--results_folder", results, "--run_name", name]
    fixed += ["--data_folder", "LibriSpeech", "--device", "cpu"]
    fixed += ["--steps", "24", "--valid_interval", "12"]
    fixed += ["--lr_projector", "0.03", "--length_pool", "1"]
    options = {**RUNS.get(name, {}), **changes}.items()
    options = [str(x) for k, v in options for x in (f"--{k}", v)]
    return [*fixed, "--noprogressbar", *options]


def experiment(*arguments, **changes):
    """The recipe's experiment of `words`."""
    train = load_script(RECIPE, "train")
    return train.prepare_experiment(words(*arguments, **changes))


def sounds():
    """Two recordings of the world's test set (list of str)."""
    return sorted(
        str(f) for f in Path("LibriSpeech/test-clean").rglob("*.flac")
    )


@torch.no_grad()
def numbers(model):
    """What a speech LLM says to two recordings, and some of its logits."""
    said = {"texts": [], "logits": []}
    for file in sounds():
        wav_N = torch.from_numpy(soundfile.read(file, dtype="float32")[0])
        x_BSF, tokens_B = model.features(
            wav_N[None], torch.tensor([len(wav_N)])
        )
        target = model.prompt.encode_target("one two")
        logits_NV, _ = model(x_BSF, tokens_B, [target])
        said["logits"].append(logits_NV[:, ::32].tolist())
        said["texts"] += model.transcribe(x_BSF, tokens_B, torch.tensor([12]))
    return said


def of_run(folder):
    """`numbers` of a finished run."""
    return numbers(TrainedRun(folder).load())


def of_export(folder):
    """`numbers` of an export's tasks, and what ``speechllm`` says (dict)."""
    export, found = ExportedSpeechLLM.from_pretrained(folder, device="cpu"), {}
    for task in sorted(p.name for p in Path(folder, "tasks").iterdir()):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            code = speechllm(
                ["transcribe", *sounds(), "--model", str(folder)]
                + ["--task", task, "--json", "--device", "cpu"]
            )
        assert code == 0, printed.getvalue()
        found[task] = numbers(export.use(task))
        told = json.loads(printed.getvalue())
        found[task]["command"] = [one["text"] for one in told]
    return found


def weights(run):
    """All that a run trained, by file and name (dict of tensors)."""
    files = sorted(Path(run, "trained").rglob("*.safetensors"))
    return {f"{f.name}:{k}": v for f in files for k, v in load_file(f).items()}


def write_report(study, output):
    """The report of a folder of results."""
    with contextlib.redirect_stdout(io.StringIO()):
        assert report.main([str(study), "--output", str(output)]) == 0
