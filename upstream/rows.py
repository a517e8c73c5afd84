"""Rows of SpeechBrain's recipe tests, and what runs before each."""

import csv
import io
import os

import yaml

from upstream.layout import SCRATCH, SETUP

COLUMNS = [
    "Task",
    "Dataset",
    "Script_file",
    "Hparam_file",
    "Data_prep_file",
    "Readme_file",
    "Result_url",
    "HF_repo",
    "test_debug_flags",
    "test_debug_checks",
    "performance",
]
STEPS = 20
# What a run leaves behind; the last three are this library's.
FILES = [
    "env.log",
    "hyperparams.yaml",
    "log.txt",
    "train.py",
    "train_log.txt",
    "result.json",
    "trained/projector.safetensors",
    "trained/system.json",
]
# A tiny untrained model costs more than 6 nats a byte, blind guessing 5.5: the
# mean over the few steps is below this only where the projector learns.
TRAIN_LOSS = 5.4


def flags(recipe, text):
    """Flags that make a YAML run in seconds on the CPU."""
    plain = plain_values(text)
    family = plain["backbone"]["family"].lower()
    kind = plain["speech_encoder"]["kind"]
    data = f"{SCRATCH}/{recipe.dataset}_data"
    if "source_language" in plain:
        data += f"/{plain['source_language']}"
    decoder = f"{SCRATCH}/{family}"
    words = [
        f"--data_folder={data}",
        f"--results_folder={SCRATCH}/{recipe.dataset}",
        f"--run_name={plain['name']}",
        f"--backbone='{{source: {decoder}, dtype: float32}}'",
        f"--speech_encoder='{{source: {SCRATCH}/{kind}, dtype: float32}}'",
        *recipe.data.split(),
        "--precision=fp32 --eval_precision=fp32 --num_workers=0",
        f"--batch_size=4 --grad_accumulation_factor=1 --steps={STEPS}",
        f"--warmup_steps=1 --warmdown_steps=1 --valid_interval={STEPS}",
        "--lr_projector=0.01 --lr_adapter=0.01 --max_new_tokens=8",
    ]
    if plain["prune_layers"]:
        words.append("--prune_layers=2")
    return " ".join(words)


def plain_values(text):
    """A YAML's plain values; tags are passed over."""

    class Plain(yaml.SafeLoader):
        """Reads every tag as what stands behind it."""

    def build(loader, suffix, node):
        """The value behind a tag of HyperPyYAML's."""
        del suffix
        if isinstance(node, yaml.MappingNode):
            return loader.construct_mapping(node, deep=True)
        if isinstance(node, yaml.SequenceNode):
            return loader.construct_sequence(node, deep=True)
        return loader.construct_scalar(node)

    Plain.add_multi_constructor("!", build)
    return yaml.load(text, Loader=Plain)


def row(recipe, name, text, performance=""):
    """One row."""
    loss = f"train_loss, <{TRAIN_LOSS}, step: {STEPS}"
    checks = f"file_exists=[{','.join(FILES)}]"
    # A baseline learns in its few steps; what is pruned begins trained.
    checks += f" performance_check=[train_log.txt, {loss}]"
    values = [
        recipe.task,
        recipe.dataset,
        f"{recipe.theirs}/train.py",
        f"{recipe.theirs}/hparams/{name}.yaml",
        f"{recipe.theirs}/{recipe.their_prepare}",
        f"{recipe.theirs}/README.md",
        "",
        "",
        flags(recipe, f"name: {name}\n{text}"),
        checks,
        performance,
    ]
    return dict(zip(COLUMNS, values))


def with_rows(text, rows, folder):
    """SpeechBrain's CSV with a recipe's rows at its end."""
    text = text or ",".join(COLUMNS) + "\n"
    # Lines that are not ours stay as they are, to the last quote.
    kept = [
        line for line in text.splitlines() if f",{folder}/hparams/" not in line
    ]
    stream = io.StringIO()
    header = next(csv.reader([kept[0]], skipinitialspace=True))
    writer = csv.DictWriter(stream, header, lineterminator="\n", restval="")
    writer.writerows(rows)
    return "\n".join(kept) + "\n" + stream.getvalue()


def setup_scripts(recipe, names):
    """What the recipe tests run before each row."""
    folder = f"{SETUP}/{recipe.theirs.replace('/', '_')}_train"
    first, *others = sorted(names)
    said = f'python {SETUP}/speech_llm.py "$0"\n'
    scripts = {f"{folder}/hparams_{first}": ("executable", said)}
    for name in others:
        scripts[f"{folder}/hparams_{name}"] = ("link", f"hparams_{first}")
    return {os.path.normpath(k): v for k, v in scripts.items()}
