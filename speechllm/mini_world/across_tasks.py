"""What one backbone keeps across tasks: Table 2 in miniature, and two checks."""

import json
from pathlib import Path

from speechbrain_ext.layers.distances import RedundancyTable, compare
from speechbrain_ext.runs.files import write_text
from speechbrain_ext.runs.result import load_runs
from speechbrain_ext.training.choose_layers import table_file
from speechllm.report.tables import markdown_table

ASR = "mini"
DIRECTIONS = {"mini_fr_en": "Fr-En", "mini_en_de": "En-De"}
SYSTEMS = {**DIRECTIONS, "mini_lora": "ASR, LoRA-adapted baseline"}
MISSING = "—"


def report_tasks(results):
    """Write ``tasks.md`` from what the runs left."""
    tables = _tables(results)
    runs = {run.name: run for run in load_runs(results).all}
    parts = [
        translation_table(runs, tables),
        tables_agreement(tables),
        multitask_check(results / "multitask" / "multitask.json"),
    ]
    text = "\n".join(parts)
    write_text(results / "tasks.md", text)
    return text


def _tables(results):
    """Baseline to its table on speech, of those there are (dict)."""
    files = {
        name: table_file(str(results / name), "speech")
        for name in (ASR, *SYSTEMS)
    }
    return {
        name: RedundancyTable.load(file)
        for name, file in files.items()
        if Path(file).exists()
    }


def translation_table(runs, tables):
    """BLEU by depth, along the translation's own path and along ASR's."""
    header = ["layers removed"]
    header += [f"{d}, own path" for d in DIRECTIONS.values()]
    header += [f"{d}, ASR's path" for d in DIRECTIONS.values()]
    lines = [
        "## Translation along its own path and along ASR's",
        "",
        "BLEU on test with its 95 % interval; in brackets the first layer "
        "removed.",
        "",
    ]
    pruned = [
        run
        for run in runs.values()
        if run.removed and run.name.startswith(tuple(DIRECTIONS))
    ]
    rows = []
    for depth in [0, *sorted({run.removed for run in pruned})]:
        cells = [
            _cell(runs, tables, name, whose or name, depth)
            for whose in (None, ASR)
            for name in DIRECTIONS
        ]
        rows.append([depth, *cells])
    return "\n".join([*lines, markdown_table(header, rows)])


def _cell(runs, tables, name, whose, depth):
    """The score of a direction without a depth's block of a path."""
    if not depth:
        return _score(runs.get(name))
    if whose not in tables:
        return MISSING
    block = tables[whose].best(depth)
    found = [
        run
        for run in runs.values()
        if run.name.startswith(name)
        and (run.removed, run.start) == (depth, block.start)
    ]
    return f"{_score(found[0] if found else None)} ({block.start})"


def _score(run):
    if run is None:
        return MISSING
    score = run.scores.get("test")
    if run.status != "done" or score is None or score.value is None:
        return run.status
    low, high = score.interval
    return f"{score.value:.2f} [{low:.2f}, {high:.2f}]"


def tables_agreement(tables):
    """How far each system's distances are from ASR's."""
    lines = [
        "## Tables of distances beside ASR's",
        "",
    ]
    header = ["table on speech", "mean difference", "correlation"]
    header += ["same start", "layers on both paths", "mean distance, ASR's"]
    rows = []
    for name, title in SYSTEMS.items():
        if name not in tables or ASR not in tables:
            rows.append([title, *[MISSING] * 5])
            continue
        asr, own = tables[ASR], tables[name]
        told = compare(asr, own)
        means = [_mean_distance(table) for table in (own, asr)]
        rows.append(
            [
                title,
                f"{told['mean_difference']:.4f}",
                f"{told['correlation']:.4f}",
                f"{told['same_start']:.2f}",
                f"{told['overlap']:.2f}",
                f"{means[0]:.4f}, {means[1]:.4f}",
            ]
        )
    return "\n".join([*lines, markdown_table(header, rows)])


def _mean_distance(table):
    """Mean over all blocks that have a receiving layer (float)."""
    size = table.num_layers
    values = [
        table.distances[n - 1, start]
        for n in range(1, size)
        for start in range(size - n)
    ]
    return float(sum(values) / len(values))


def multitask_check(file):
    """Several tasks on one backbone beside their own systems."""
    title = "## All tasks on one pruned backbone\n\n"
    if not file.exists():
        return f"{title}Not run, or failed.\n"
    with open(file, encoding="utf-8") as stream:
        content = json.load(stream)
    header = ["task", "score", "texts as its own system's"]
    header += ["logits bit for bit", "adds"]
    rows = []
    for task, score in content["scores"].items():
        check = content["checks"].get(task)
        same = MISSING, MISSING
        if check:
            same = (
                f"{check['same_texts']} of {check['utterances']}",
                "yes" if check["same_logits"] else "no",
            )
        adds = sum(content["memory"]["tasks"][task].values()) / 2**20
        rows.append(
            [
                task,
                f"{score['metric']} {score['value']:.2f}",
                *same,
                f"{adds:.2f} MiB",
            ]
        )
    memory = content["memory"]
    return (
        f"{title}{markdown_table(header, rows)}\n"
        f"Memory: {memory['together'] / 2**20:.2f} MiB together, "
        f"{memory['separately'] / 2**20:.2f} MiB as systems of their own.\n"
    )
