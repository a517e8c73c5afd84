"""From a study's configuration to the list of its runs.

One YAML says which systems, depths, healings, paths and seeds a study has;
this turns it into runs with the command line of each, exactly as a person
would type it in the recipe's folder. Nothing here runs anything.
"""

import itertools
import os
from pathlib import Path

import yaml
from fingerprints import made_of
from study import Run, Study
from study_config import PlanError, checked
from tuning import TuningError, steps_options, trials_of

ROOT = Path(__file__).resolve().parents[1]


class Plan(Study):
    """A study's runs, in an order in which they could be made."""

    def __init__(self, config, file="configuration"):
        self.config, self.file = checked(config, file), file
        super().__init__(config["results"], cards=config.get("cards", 0))
        self.warm = config.get("warm", False)
        self.report = config.get("report", "paper")
        self.seeds = config["seeds"]
        self.baseline_seeds = config.get("baseline_seeds") or self.seeds
        for name, one in config.get("data", {}).items():
            self._add_data(name, one)
        for name in config["systems"]:
            self._add_baselines(name)
        for name in config["systems"]:
            self._add_healed(name)

    def _add(self, run):
        if run.name in self.runs:
            raise PlanError(
                f"{self.file}: {run.name}: planned twice; let no two entries "
                "of a study name the same depth, healing and path"
            )
        self.runs[run.name] = run
        return run

    def _add_data(self, name, one):
        """How a data set is made, where the study makes it."""
        if not one.get("make"):
            return
        folder = self.results / one.get("folder", ".")
        command = [
            word.format(
                folder=folder,
                parent=folder.parent,
                above=folder.parent.parent,
            )
            for word in one["make"]
        ]
        made = made_of(one["make"])
        self._add(
            Run(f"data-{name}", "data", command, str(ROOT), [], made, made)
        )

    def data_folder(self, name):
        """Where a data set lies: below the results if it is relative."""
        try:
            folder = self.config["data"][name]["folder"]
        except KeyError:
            raise PlanError(
                f"{self.file}: data.{name}.folder: missing, say where it lies"
            ) from None
        return self.results / Path(folder).expanduser()

    def _recipe_run(self, name, kind, system, yaml_file, options, needs):
        """A run of a recipe's script, its command line and fingerprints."""
        recipe = ROOT / "recipes" / system["recipe"]
        data = system["data"]
        script = "measure.py" if kind == "table" else "train.py"
        places = {
            "data_folder": self.data_folder(data),
            "results_folder": self.results / "runs",
            "manifest_folder": self.results / "manifests" / data,
        }
        if self.config.get("features", True):
            places["cache_features"] = self.results / "features" / data
        command = [script, f"hparams/{yaml_file}"]
        for key, value in {**options, **places}.items():
            command += [f"--{key}", _as_option(value)]
        made_first = [f"data-{one}" for one in [data, *system.get("needs", [])]]
        needs = [one for one in made_first if one in self.runs] + needs
        before = [self.runs[one].trained for one in needs]
        file = recipe / "hparams" / yaml_file
        # Where the study's other runs lie is not part of what they are.
        own = {k: v for k, v in options.items() if not isinstance(v, Path)}
        made, sets = made_of([script, before], file, own, everything=True)
        trained, _ = made_of([script, before], file, own)
        return self._add(
            Run(name, kind, command, str(recipe), needs, made, trained, sets)
        )

    def _options(self, system, which):
        return {
            **self.config.get("set", {}),
            **system.get("set", {}),
            **system.get(f"set_{which}", {}),
        }

    def _add_baselines(self, name):
        system = self.config["systems"][name]
        for seed in self.baseline_seeds:
            base = f"{name}-s{seed}"
            options = {
                **self._options(system, "baseline"),
                "seed": seed,
                "run_name": base,
            }
            yaml_file = system["baseline"]
            self._recipe_run(base, "baseline", system, yaml_file, options, [])
            self._add_score(base, system)
            for kind in system.get("tables", []):
                run = self._recipe_run(
                    f"{base}-table-{kind}",
                    "table",
                    system,
                    yaml_file,
                    options,
                    [base],
                )
                run.command[2:2] = ["--input", kind]
                run.made, run.sets = made_of([run.made, kind]), []
                run.trained = made_of([run.trained, kind])
            self._add_plans(name, base, options)

    def _add_plans(self, name, base, options):
        """Searches of removal plans, of all depths that the study has."""
        system = self.config["systems"][name]
        study = system["study"]
        for rule in system.get("plans", []):
            depths = {
                depth
                for one in study
                if one.get("path") == rule
                for depth in one["depths"]
            }
            tuning = system.get("tuning") or {}
            if rule in tuning.get("healing", {}).values():
                # A missing key is refused where the trials are planned.
                depths |= {tuning["depth"]} if tuning.get("depth") else set()
            sizes = [str(depth) for depth in sorted(depths)]
            if not sizes:
                continue
            words = ["--rule", rule, "--sizes", *sizes]
            if "utterances" in self.config:
                words += ["--utterances", str(self.config["utterances"])]
            run = self._recipe_run(
                f"{base}-table-{rule}",
                "table",
                system,
                system["baseline"],
                options,
                [base],
            )
            # After the script and its YAML, before what they share.
            run.command[2:2] = words
            run.made, run.sets = made_of([run.made, words]), []
            run.trained = made_of([run.trained, words])

    def _add_healed(self, name):
        system = self.config["systems"][name]
        control = system.get("control")
        tuned = self._add_trials(name)
        for seed in self.seeds:
            # A list: as many further steps each, of the first seed.
            if isinstance(control, list):
                many = control if seed == self.seeds[0] else []
            else:
                many = [None] if control else []
            for steps in many:
                self._add_pruned(name, seed, 0, None, None, steps=steps)
            for one in system["study"]:
                if seed not in one.get("seeds", self.seeds):
                    continue
                for depth, healing, steps in itertools.product(
                    one["depths"], one["healing"], one.get("steps", [None])
                ):
                    path = one.get("path", "speech")
                    trials = tuned.get(healing)
                    self._add_pruned(
                        name, seed, depth, healing, path, steps, trials
                    )

    def _add_trials(self, name):
        """Trials of learning rates, by healing: run's name to its rates."""
        tuning = self.config["systems"][name].get("tuning")
        try:
            trials = trials_of(tuning)
        except TuningError as error:
            raise PlanError(
                f"{self.file}: systems.{name}.tuning.{error}"
            ) from None
        tuned, seed = {}, self.seeds[0]
        for healing, path, number, rates in trials:
            run_name = f"{name}-s{seed}-trial{number}-{healing}"
            more = {**rates, "test_splits": tuning["test_splits"]}
            steps, depth = tuning["steps"], tuning["depth"]
            self._add_pruned(
                name, seed, depth, healing, path, steps, None, run_name, more
            )
            tuned.setdefault(healing, {})[run_name] = rates
        return tuned

    def _add_pruned(
        self,
        name,
        seed,
        depth,
        healing,
        path,
        steps=None,
        trials=None,
        run_name=None,
        more=None,
    ):
        """A pruned and healed run; depth 0 is the baseline's control."""
        system = self.config["systems"][name]
        base = self._base(name, seed)
        options = {**self._options(system, "healed"), "seed": seed}
        options |= {**steps_options(steps), **(more or {})}
        needs = [base, *(trials or {})]
        usual = f"{name}-s{seed}-n{depth}-{healing}-{path}"
        if not depth:
            # As many further steps for the whole model as healing takes:
            # what pruning costs is not hidden by training longer.
            usual = f"{name}-s{seed}-control"
            options["prune_layers"] = 0
        else:
            options |= {"prune_layers": depth, "healing": healing}
            own = self.config.get("healings", {}).get(healing)
            options |= {"healing_parts": own} if own else {}
            table, options["path_from"] = self._path(name, base, seed, path)
            needs += table
        run_name = run_name or usual + (f"-k{steps}" if steps else "")
        options |= {
            "baseline": self.run_folder(base),
            "run_name": run_name,
        }
        run = self._recipe_run(
            run_name, "healed", system, system["healed"], options, needs
        )
        run.trials = trials or {}
        if not more:
            self._add_score(run_name, system)

    def _base(self, name, seed):
        seeds = self.baseline_seeds
        return f"{name}-s{seed if seed in seeds else seeds[0]}"

    def _path(self, name, base, seed, path):
        """Which table a path is read from: what it needs, and the option."""
        if path in ("speech", "text"):
            table = f"{base}-table-{path}"
            # Without a table of its own the run measures it first.
            return ([table] if table in self.runs else []), path
        if path in self.config["systems"][name].get("plans", []):
            file = self.run_folder(base) / f"plan-{path}.json"
            return [f"{base}-table-{path}"], file
        if path not in self.config["systems"]:
            raise PlanError(
                f"{self.file}: systems.{name}.study.path: {path}, choose "
                f"speech, text, one of systems.{name}.plans or one of "
                f"{', '.join(self.config['systems'])}"
            )
        other = self._base(path, seed)
        table = f"{other}-table-speech"
        if table not in self.runs:
            raise PlanError(
                f"{self.file}: systems.{name}.study.path: {path} has no table "
                f"on speech; give systems.{path}.tables: [speech]"
            )
        return [table], self.run_folder(other) / "redundancy-speech.json"

    def _add_score(self, base, system):
        """A further set that a recipe's ``evaluate.py`` scores."""
        score = system.get("score")
        if not score:
            return
        command = [
            "evaluate.py",
            str(self.run_folder(base)),
            "--data_folder",
            str(self.data_folder(score["data"])),
            "--manifest_folder",
            str(self.results / "manifests" / score["data"]),
        ]
        made = made_of([self.runs[base].made, "evaluate.py"])
        folder = str(ROOT / "recipes" / score["recipe"])
        run = Run(f"{base}-score", "score", command, folder, [base], made, made)
        run.sets = score.get("sets", [])
        self._add(run)


def _as_option(value):
    """A value as one word of a command line."""
    if isinstance(value, (list, dict)):
        return yaml.safe_dump(value, default_flow_style=True).strip()
    return str(value)


def read_plan(file, **changes):
    """The plan of a configuration file."""
    # $NAME stands for a variable: where data lie is not the study's business.
    told = os.path.expandvars(Path(file).read_text(encoding="utf-8"))
    config = yaml.safe_load(told)
    return Plan({**config, **changes}, str(file))
