"""What one backbone keeps across tasks: Table 2 in miniature, and two checks.

``python -m speechllm.study.tasks RESULTS --output DIR`` compares the tables of
`make mini-full` with recognition's and writes ``tasks.md``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from speechbrain_ext.layers.agreement import compare
from speechbrain_ext.layers.distances import RedundancyTable
from speechbrain_ext.runs.files import write_json, write_text
from speechbrain_ext.runs.reading import load_runs
from speechbrain_ext.training.choose_layers import table_file
from speechllm.cli.compare_tables import agreement_of, agreement_text
from speechllm.pipes import module_parser
from speechllm.report.tables import markdown_table

ASR = "mini"
DIRECTIONS = {"mini_fr_en": "Fr-En", "mini_en_de": "En-De"}
SYSTEMS = {**DIRECTIONS, "mini_lora": "ASR, LoRA-adapted baseline"}
MISSING = "—"


def report_tasks(results: Path, output: Path | None = None) -> str:
    """Write ``tasks.md`` from what the runs left."""
    text = "\n".join(part(results) for part in PARTS.values())
    write_text((output or results) / "tasks.md", text)
    return text


def _tables(results):
    """Tables on speech of the baselines that have one."""
    names = (ASR, *SYSTEMS)
    files = {name: table_file(str(results / name), "speech") for name in names}
    return {
        name: RedundancyTable.load(file)
        for name, file in files.items()
        if Path(file).exists()
    }


def translation_table(results: Path) -> str:
    """BLEU by depth, along the translation's own path and along ASR's."""
    runs = {run.name: run for run in load_runs(results).all}
    tables = _tables(results)
    header = [f"{d}, own path" for d in DIRECTIONS.values()]
    header += [f"{d}, ASR's path" for d in DIRECTIONS.values()]
    pruned = [
        run
        for run in runs.values()
        if run.removed and run.name.startswith(tuple(DIRECTIONS))
    ]
    depths = [0, *sorted({run.removed for run in pruned})]
    columns = [
        (name, own or name) for own in (None, ASR) for name in DIRECTIONS
    ]
    rows = [
        [depth, *(_cell(runs, tables, *column, depth) for column in columns)]
        for depth in depths
    ]
    return (
        "## Translation along its own path and along ASR's\n\n"
        "BLEU on test with its 95 % interval; in brackets the first layer "
        "removed.\n\n" + markdown_table(["layers removed", *header], rows)
    )


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


def tables_agreement(results: Path) -> str:
    """How far each system's distances are from ASR's."""
    tables = _tables(results)
    header = [
        "table on speech",
        "mean difference",
        "correlation",
        "same start",
        "layers on both paths",
        "mean distance, ASR's",
    ]
    rows = []
    for name, title in SYSTEMS.items():
        if name not in tables or ASR not in tables:
            rows.append([title] + [MISSING] * 5)
            continue
        asr, own = tables[ASR], tables[name]
        told = compare(asr, own)
        means = ", ".join(f"{_mean_distance(t):.4f}" for t in (own, asr))
        figures = [f"{told[k]:.4f}" for k in ("mean_difference", "correlation")]
        figures += [f"{told[k]:.2f}" for k in ("same_start", "overlap")]
        rows.append([title, *figures, means])
    title = "## Tables of distances beside ASR's\n\n"
    return title + markdown_table(header, rows)


def _mean_distance(table):
    """Mean over all blocks that have a receiving layer."""
    size = table.num_layers
    values = [
        table.distances[n - 1, start]
        for n in range(1, size)
        for start in range(size - n)
    ]
    return float(sum(values) / len(values))


def multitask_check(results: Path) -> str:
    """Several tasks on one backbone beside their own systems."""
    file = results / "multitask" / "multitask.json"
    title = "## All tasks on one pruned backbone\n\n"
    if not file.exists():
        return f"{title}Not run, or failed.\n"
    content = json.loads(file.read_text(encoding="utf-8"))
    header = [
        "task",
        "score",
        "texts as its own system's",
        "logits bit for bit",
        "adds",
    ]
    rows, memory = [], content["memory"]
    for task, score in content["scores"].items():
        check = content["checks"].get(task)
        same = MISSING, MISSING
        if check:
            same = (
                f"{check['same_texts']} of {check['utterances']}",
                "yes" if check["same_logits"] else "no",
            )
        adds = sum(memory["tasks"][task].values()) / 2**20
        value = f"{score['metric']} {score['value']:.2f}"
        rows.append([task, value, *same, f"{adds:.2f} MiB"])
    return (
        f"{title}{markdown_table(header, rows)}"
        f"\nMemory: {memory['together'] / 2**20:.2f} MiB together, "
        f"{memory['separately'] / 2**20:.2f} MiB as systems of their own.\n"
    )


PARTS = {
    "translation": translation_table,
    "distances": tables_agreement,
    "multitask": multitask_check,
}


def compare_all(results: Path, output: Path) -> None:
    """Compare each task's table with recognition's, as far as there are any."""
    tables = _tables(results)
    asr = tables.pop(ASR, None)
    for name, own in tables.items() if asr is not None else ():
        print(agreement_text(asr, own))
        target = output / f"tables-mini-{name}.json"
        write_json(target, agreement_of(asr, own))


def main(argv=None) -> int:
    """Compare the tables, and print and write the tasks' page."""
    parser = module_parser("speechllm.study.tasks", __doc__)
    parser.add_argument("results", type=Path, help="folder of the runs")
    parser.add_argument("--output", type=Path, help="by default the same")
    options = parser.parse_args(argv)
    output = options.output or options.results
    compare_all(options.results, output)
    print(report_tasks(options.results, output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
