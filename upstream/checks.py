"""SpeechBrain's own checks, run in the checkout, and their table."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
import venv
from dataclasses import dataclass
from pathlib import Path

from speechllm.report.tables import markdown_table
from upstream.layout import LIBRARY, ROOT, SCRATCH, SETUP, TESTS
from upstream.mini_world import mini_world_commands
from upstream.rows import COLUMNS


@dataclass
class Outcome:
    """How a check ended."""

    name: str
    passed: bool
    seconds: float
    log: Path


class Checks:
    """The checks of what a plan brought."""

    def __init__(self, checkout, plan, work):
        self.checkout = checkout
        self.plan = plan
        self.work = Path(work)
        self.logs = self.work / "logs"
        self.python = str(self.work / "venv/bin/python")

    def commands(self):
        """Each check as commands to run in the checkout's root."""
        tools = os.path.dirname(sys.executable)
        python, yamls, pages, needs = (
            self.plan.named(ending)
            for ending in (".py", ".yaml", ".md", ".txt")
        )
        texts = python + yamls + pages + needs
        pytest = [self.python, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        # All of the library: nothing may want a slice that is not there yet.
        modules = [
            name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            for name in python
            if name.startswith(f"{LIBRARY}/")
        ]
        checks = {
            "imports": [[self.python, "-c", f"import {', '.join(modules)}"]],
            "consistency": [[*pytest, "tests/consistency"]],
            "ruff": [
                [f"{tools}/ruff", "check", "--no-cache", *python],
                [f"{tools}/ruff", "format", "--no-cache", "--check", *python],
            ],
            "yamllint": [[f"{tools}/yamllint", "--no-warnings", *yamls]],
            "codespell": [
                [
                    f"{tools}/codespell",
                    "--ignore-words=.dict-speechbrain.txt",
                    *texts,
                ]
            ],
            "docstrings": [
                [
                    self.python,
                    "-c",
                    "from tests.utils.check_docstrings import check_docstrings"
                    f"\nok = [check_docstrings(f, ['']) for f in "
                    f"{[LIBRARY, TESTS]}]\nassert all(ok)",
                ]
            ],
            "doctests": [[*pytest, "--doctest-modules", LIBRARY]],
            "unit tests": [[*pytest, TESTS]],
        }
        for recipe in self.plan.recipes:
            name = f"recipe tests, {recipe.dataset}"
            checks[name] = [self._recipe_tests(recipe)]
        checks["two processes"] = self._two_processes()
        checks["mini world"] = mini_world_commands(
            self.python, self.work, "features" in self.plan.slices
        )
        return checks

    def _recipe_tests(self, recipe):
        """SpeechBrain's recipe tests of one recipe's rows."""
        files = [row["Hparam_file"] for row in self.plan.rows(recipe)]
        said = (
            "from tests.utils.recipe_tests import run_recipe_tests\n"
            f"ok = run_recipe_tests(filters_fields=['Hparam_file'], "
            f"filters=[{files}], run_opts='--device=cpu', "
            f"output_folder='{SCRATCH}/rows/')\n"
            "assert ok"
        )
        return [self.python, "-c", said]

    def _two_processes(self):
        """One run of two processes, by the flags of its recipe test."""
        row = next(
            r
            for r in self.plan.rows(self.plan.recipes[0])
            if "prune" in r["Hparam_file"]
        )
        script, hparams, flags = (row[COLUMNS[i]] for i in (2, 3, 8))
        folder = script[: -len(".py")].replace("/", "_")
        name = f"hparams_{os.path.basename(hparams)[: -len('.yaml')]}"
        command = [
            "env",
            f"PYTHONPATH={os.path.dirname(script)}",
            self.python,
            *"-m torch.distributed.run --standalone --nproc_per_node=2".split(),
            script,
            hparams,
            *shlex.split(flags),
            f"--output_folder={SCRATCH}/two_processes",
            "--device=cpu",
            "--distributed_backend=gloo",
        ]
        return [["sh", f"{SETUP}/{folder}/{name}"], command]

    def prepare(self):
        """An interpreter that sees the checkout, and nothing of this project."""
        # A run that is finished already would be left as it is.
        shutil.rmtree(self.checkout.folder / SCRATCH, ignore_errors=True)
        shutil.rmtree(self.work / "mini", ignore_errors=True)
        venv.create(self.work / "venv", symlinks=True)
        place = next((self.work / "venv/lib").glob("python3*/site-packages"))
        packages = [path for path in sys.path if "-packages" in path]
        text = "\n".join([str(self.checkout.folder), *packages])
        (place / "checkout.pth").write_text(f"{text}\n", "utf-8")
        self.logs.mkdir(parents=True, exist_ok=True)

    def chosen(self, only=None):
        """The commands of checks whose names begin so; all by default."""
        checks, words = self.commands(), only or [""]
        for word in {*words} - {"none"}:
            if not any(name.startswith(word) for name in checks):
                known = ", ".join([*checks, "none"])
                raise ValueError(f"--only: {word}, choose from {known}")
        return {n: c for n, c in checks.items() if n.startswith(tuple(words))}

    def run(self, only=None):
        """Run the checks one after the other, each told as it ends."""
        self.prepare()
        outcomes = []
        for name, commands in self.chosen(only).items():
            outcomes.append(self._run_one(name, commands))
            one = outcomes[-1]
            mark = "passed" if one.passed else f"FAILED, see {one.log}"
            print(f"{name}: {mark} ({one.seconds:.0f} s)", flush=True)
        return outcomes

    def _run_one(self, name, commands):
        """Run one check's commands up to the first that fails."""
        log = self.logs / f"{name.replace(', ', '-').replace(' ', '_')}.log"
        binaries = os.path.dirname(self.python)
        environment = {
            **os.environ,
            "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        environment.pop("PYTHONPATH", None)
        began, passed = time.monotonic(), True
        with open(log, "w", encoding="utf-8") as stream:
            for words in commands:
                here = words[0] == sys.executable
                done = subprocess.run(
                    words,
                    cwd=ROOT if here else self.checkout.folder,
                    env=environment,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                )
                passed = passed and done.returncode == 0
                if not passed:
                    break
        return Outcome(name, passed, time.monotonic() - began, log)


def outcome_table(outcomes):
    """The checks as a Markdown table."""
    rows = [
        [one.name, "passed" if one.passed else "FAILED", f"{one.seconds:.0f}"]
        for one in outcomes
    ]
    return markdown_table(["check", "result", "seconds"], rows)


def scores_of(folder):
    """Finished runs' scores, for the READMEs' tables."""
    found = {}
    files = sorted(Path(folder).glob("*/result.json")) if folder else []
    if folder and not files:
        raise ValueError(f"--results: {folder}, there is no NAME/result.json")
    for file in files:
        run = json.loads(file.read_text("utf-8"))
        if run.get("status") != "done":
            continue
        found[run["name"]] = {
            "date": str(run.get("finished") or "-")[:10],
            "scores": {k: v["value"] for k, v in run["scores"].items()},
        }
    return found
