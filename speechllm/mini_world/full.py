"""The paper's second half in miniature: every run of `make mini-full`.

Three tasks (English recognition, English to German, French to English), each
with its baseline and its table of distances; the two translations pruned
along their own path and along recognition's; a LoRA-adapted baseline beside
the frozen one; the out-of-domain set in Loquacious's layout; and all three
tasks on one pruned backbone. Each run is a recipe's own command line, printed
before it starts. A run that fails is recorded as failed and those that do
not need it go on; what is finished already is not run again.
"""

import argparse
import sys
import time
from pathlib import Path

from speechbrain_ext.layers.distances import RedundancyTable
from speechbrain_ext.training.choose_layers import table_file
from speechllm.cli.compare_tables import main as compare_tables
from speechllm.mini_world.across_tasks import report_tasks
from speechllm.mini_world.corpus import CORPORA
from speechllm.mini_world.running import (
    COVOST2,
    LIBRISPEECH,
    LOQUACIOUS,
    MULTITASK,
    command,
    prepare_process,
    run_all,
)
from speechllm.report.command import main as report

DEPTHS = (2, 3, 4, 6)
# Depths of recognition, and of the LoRA-adapted system beside it.
ASR_DEPTHS = (2, 4, 6)
# Layers that the backbone of all tasks lacks.
SHARED_DEPTH = 4
# Each baseline: its recipe and its data. The slowest stand first.
BASELINES = {
    "mini_fr_en": (COVOST2, "CommonVoice/fr"),
    "mini_lora": (LIBRISPEECH, "LibriSpeech"),
    "mini_en_de": (COVOST2, "CommonVoice/en"),
    "mini": (LIBRISPEECH, "LibriSpeech"),
}
TRANSLATIONS = ("mini_fr_en", "mini_en_de")


class Study:
    """The commands of the study, in the order of what needs what."""

    def __init__(self, results):
        self.results = results
        self.lost = set()

    def recipe(self, script, yaml, baseline, **options):
        """A training or measuring command on a baseline's data."""
        recipe, data = BASELINES[baseline]
        return command(
            recipe,
            script,
            f"hparams/{yaml}.yaml",
            **options,
            data_folder=self.results / "data" / data,
            results_folder=self.results,
        )

    def usable(self):
        """Baselines that did not fail (list of str)."""
        return [name for name in BASELINES if name not in self.lost]

    def baselines(self):
        """One whole system for each task, and the LoRA-adapted one."""
        return {n: [self.recipe("train.py", n, n)] for n in BASELINES}

    def tables(self):
        """The distances of each baseline on its own speech."""
        return {
            n: [self.recipe("measure.py", n, n, input="speech")]
            for n in self.usable()
        }

    def asr_table(self):
        """The table whose path all tasks may follow (str)."""
        return table_file(str(self.results / "mini"), "speech")

    def blocks(self, baseline):
        """Depth to the block on a baseline's own path (dict)."""
        file = table_file(str(self.results / baseline), "speech")
        table = RedundancyTable.load(file)
        return {depth: table.best(depth) for depth in DEPTHS}

    def pruned(self):
        """All pruned runs, of those tasks whose baseline is there."""
        found = {}
        for name in self.usable():
            depths = DEPTHS if name in TRANSLATIONS else ASR_DEPTHS
            found[name] = [
                self.recipe(
                    "train.py",
                    f"{name}_prune",
                    name,
                    run_name=f"{name}-prune{depth}",
                    prune_layers=depth,
                )
                for depth in reversed(depths)
            ]
        if "mini" in self.lost:
            return found
        for name in set(TRANSLATIONS) & set(found):
            own, asr = self.blocks(name), self.blocks("mini")
            found[name] += [
                self.recipe(
                    "train.py",
                    f"{name}_prune",
                    name,
                    run_name=f"{name}-prune{depth}-asr",
                    prune_layers=depth,
                    path_from=self.asr_table(),
                )
                for depth in DEPTHS
                if own[depth] != asr[depth]
            ]
        return found

    def shared_runs(self):
        """Task to the folder of its run on the shared backbone (dict)."""
        folders = {"mini_asr": self.results / f"mini-prune{SHARED_DEPTH}"}
        for name in TRANSLATIONS:
            run = f"{name}-prune{SHARED_DEPTH}"
            along_asr = self.results / f"{run}-asr"
            there = along_asr.is_dir()
            folders[name] = along_asr if there else self.results / run
        return folders

    def evaluations(self):
        """Out-of-domain scores, and all tasks on one backbone."""
        data = self.results / "data"
        manifests = self.results / "manifests"
        found = {
            run: [
                command(
                    LOQUACIOUS,
                    "evaluate.py",
                    self.results / run,
                    data_folder=data / "LoquaciousSet",
                    manifest_folder=manifests,
                    num_workers=0,
                )
            ]
            for run in ("mini", f"mini-prune{SHARED_DEPTH}")
        }
        inputs = {
            "mini_asr": ("test-clean.csv", "LibriSpeech"),
            "mini_en_de": ("en_de_test.csv", "CommonVoice/en"),
            "mini_fr_en": ("fr_en_test.csv", "CommonVoice/fr"),
        }
        changes = {}
        for task, folder in self.shared_runs().items():
            manifest, corpus = inputs[task]
            changes[f"{task}.run_folder"] = folder
            changes[f"{task}.manifest"] = manifests / manifest
            changes[f"{task}.data_root"] = data / corpus
        one = command(
            MULTITASK,
            "run.py",
            *(f"hparams/{task}.yaml" for task in inputs),
            "--check",
            **changes,
            output_folder=self.results / "multitask",
            limit=100,
        )
        found["multitask"] = [one]
        return found

    def stages(self):
        """Name to the function that tells a stage's commands (dict)."""
        return {
            "baselines": self.baselines,
            "tables": self.tables,
            "pruned": self.pruned,
            "evaluations": self.evaluations,
        }

    def run(self, workers):
        """Run every stage."""
        failed = []
        for stage, tell in self.stages().items():
            by_system = tell()
            commands = [one for many in by_system.values() for one in many]
            logs = self.results / "logs" / stage
            wrong = run_all(commands, logs, workers)
            failed += wrong
            if stage in ("baselines", "tables"):
                self.lost |= {
                    name
                    for name, many in by_system.items()
                    if set(many) & set(wrong)
                }
        return failed


def compare_all(results):
    """Compare each task's table with recognition's, as far as there are any."""
    asr = table_file(str(results / "mini"), "speech")
    for name in BASELINES:
        other = table_file(str(results / name), "speech")
        if name != "mini" and Path(asr).exists() and Path(other).exists():
            target = results / f"tables-mini-{name}.json"
            compare_tables([asr, other, "--json", str(target)])
            print()


def main(argv=None):
    """Build the world, run everything, report."""
    parser = argparse.ArgumentParser(
        prog="python -m speechllm.mini_world.full",
        description=__doc__.split("\n")[0],
    )
    parser.add_argument(
        "--output", type=Path, default=Path("results/mini-full")
    )
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(argv)
    prepare_process(parser)
    results = options.output.resolve()
    began = time.monotonic()
    print(f"Building the spoken world in {results / 'data'}")
    for build, _ in CORPORA.values():
        build(str(results / "data"))
    failed = Study(results).run(options.workers)
    report([str(results), "--output", str(results)])
    compare_all(results)
    print(report_tasks(results))
    print(f"{results}: {time.monotonic() - began:.0f} s in all")
    for said in failed:
        print(f"Failed: {said}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
