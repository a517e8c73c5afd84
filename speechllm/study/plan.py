"""From a study's configuration to the list of its runs.

One YAML says which systems, depths, healings, paths and seeds a study has;
this turns it into runs with the command line of each, exactly as a person
would type it in the recipe's folder. Nothing here runs anything.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from speechbrain_ext.runs.files import of_form
from speechllm.settings_tree import refuse_bomb
from speechllm.study.besides import as_words, check_run, score_run, timing_run
from speechllm.study.config import PlanError, checked, recipe_folder
from speechllm.study.fingerprints import made_of, made_of_recipe
from speechllm.study.state import ROOT, Run, Study
from speechllm.study.tuning import steps_options


@dataclass
class Pruned:
    """What is to be planned of a pruned and healed run."""

    depth: int
    healing: str = ""
    path: str = ""
    steps: int | None = None
    run_name: str = "{run}-n{depth}-{healing}-{path}"
    trials: dict = field(default_factory=dict)
    options: dict = field(default_factory=dict)


class Plan(Study):
    """A study's runs, in an order in which they could be made."""

    def __init__(self, config, file="configuration"):
        self.config, self.file = checked(config, file), file
        places = {
            k: config[k] for k in ("cards", "report", "flat") if k in config
        }
        super().__init__(config["results"], **places)
        self.warm = config.get("warm", False)
        self.seeds = config["seeds"]
        self.baseline_seeds = config.get("baseline_seeds") or self.seeds
        # By system, seed, depth, healing, steps and path.
        self.pruned: dict[tuple, Run] = {}
        for name, one in config.get("data", {}).items():
            self._add_data(name, one)
        systems = self.config["systems"]
        for name, system in systems.items():
            self._add_baselines(name, system)
        for name, system in systems.items():
            self._add_healed(name, system)
        for name, one in config.get("checks", {}).items():
            self._add(check_run(self, name, one))
        # Alone and last: each awaits all that stands before it.
        for one in config.get("timings", []):
            self._add(timing_run(self, one))

    def error(self, told) -> PlanError:
        """What is wrong, with the file that it is wrong in."""
        return PlanError(f"{self.file}: {told}")

    def _add(self, run):
        if run.name in self.runs:
            raise self.error(
                f"{run.name}: planned twice; let no two entries of a study "
                "name the same depth, healing and path"
            )
        self.runs[run.name] = run
        return run

    def _add_scored(self, base, system):
        run = score_run(self, base, system)
        if run is not None:
            self._add(run)

    def _add_data(self, name, one):
        """How a data set is made, where the study makes it."""
        if not one.get("make"):
            return
        folder = self.results / one.get("folder", ".")
        above = {"parent": folder.parent, "above": folder.parent.parent}
        above["results"] = self.results
        command = [w.format(folder=folder, **above) for w in one["make"]]
        made = made_of(one["make"])
        name = f"data-{name}"
        self._add(Run(name, "data", command, str(ROOT), [], made, made))

    def data_folder(self, name) -> Path:
        """Where a data set lies: below the results if it is relative."""
        try:
            folder = self.config["data"][name]["folder"]
        except KeyError:
            raise self.error(
                f"data.{name}.folder: missing, say where it lies"
            ) from None
        return self.results / Path(folder).expanduser()

    def data_runs(self, *names):
        """The runs that make data sets, where the study makes them."""
        runs = [f"data-{one}" for one in names]
        return [one for one in runs if one in self.runs]

    def _places(self, data):
        """Options of the folders that a recipe reads and writes."""
        places = {
            "data_folder": self.data_folder(data),
            "results_folder": self.runs_folder,
        }
        if self.flat:
            # All else is where the YAML says it, below the results.
            return places
        places["manifest_folder"] = self.manifests(data)
        if self.config.get("features", True):
            places["cache_features"] = self.results / "features" / data
        return places

    def manifests(self, data) -> Path:
        """Where the manifests of a data set stand."""
        folder = self.results / "manifests"
        return folder if self.flat else folder / data

    def _recipe_run(self, name, kind, system, options, needs, words=()):
        """A run of a recipe's script, its command line and fingerprints.

        ``words`` stand after the script and its YAML and before the options.
        """
        recipe = recipe_folder(system["recipe"])
        script = "measure.py" if kind == "table" else "train.py"
        which = "healed" if kind == "healed" else "baseline"
        command = [script, f"hparams/{system[which]}", *words]
        command += as_words({**options, **self._places(system["data"])})
        made_first = (system["data"], *system.get("needs", []))
        needs = [*self.data_runs(*made_first), *needs]
        before = [self.runs[one].trained for one in needs]
        file = Path(recipe, "hparams", system[which])
        # Where the study's other runs lie is not part of what they are.
        own = {k: v for k, v in options.items() if not isinstance(v, Path)}
        made, sets = made_of_recipe(
            [script, before], file, own, everything=True
        )
        trained, _ = made_of_recipe([script, before], file, own)
        return self._add(
            Run(name, kind, command, recipe, needs, made, trained, sets)
        )

    def _options(self, system, which):
        """Options of a system's runs; {results} heads a place below it."""
        options = {
            **self.config.get("set", {}),
            **system.get("set", {}),
            **system.get(f"set_{which}", {}),
        }
        head = "{results}/"
        return {
            # A path: where it lies is not part of what a run is.
            k: self.results / v.removeprefix(head)
            if isinstance(v, str) and v.startswith(head)
            else v
            for k, v in options.items()
        }

    def _run_name(self, system, seed):
        """What the runs of a system and seed are called after."""
        usual = self.config.get("run_name", "{system}-s{seed}")
        return usual.format(system=system, seed=seed)

    def baseline(self, name, seed) -> str:
        """The name of a system's baseline of a seed."""
        return self._run_name(name, self._baseline_seed(seed))

    def _baseline_seed(self, seed):
        """A seed's own baseline, or the next one in turn."""
        seeds = self.baseline_seeds
        if seed in seeds or seed not in self.seeds:
            return seed if seed in seeds else seeds[0]
        return seeds[self.seeds.index(seed) % len(seeds)]

    def _add_baselines(self, name, system):
        for seed in self.baseline_seeds:
            base = self._run_name(name, seed)
            options = self._options(system, "baseline")
            options |= {"seed": seed, "run_name": base}
            needs = []
            if "start" in system:
                needs = [self._start(name, system, seed)]
                options["start_from"] = self.run_folder(needs[0])
            self._recipe_run(base, "baseline", system, options, needs)
            self._add_scored(base, system)
            for kind in system.get("tables", []):
                told = ["--input", kind]
                self._add_table(base, system, options, kind, told, kind)
            for rule in system.get("plans", []):
                words = self._search_words(system, rule)
                if words:
                    self._add_table(base, system, options, rule, words, words)

    def _start(self, name, system, seed):
        """The run of another system that a baseline starts from."""
        run = self._run_name(system["start"], seed)
        if run not in self.runs:
            known = ", ".join(self.config["systems"])
            raise self.error(
                f"systems.{name}.start: {system['start']}: give a system that "
                f"stands before it, of {known}"
            )
        return run

    def _add_table(self, base, system, options, kind, words, counted):
        """A table of a baseline, or a search of plans on it."""
        name = f"{base}-table-{kind}"
        run = self._recipe_run(name, "table", system, options, [base], words)
        run.made, run.sets = made_of([run.made, counted]), []
        run.trained = made_of([run.trained, counted])

    def _search_words(self, system, rule):
        """Options of a search of plans, of all depths that the study has."""
        study = [one for one in system["study"] if one.get("path") == rule]
        depths = {depth for one in study for depth in one["depths"]}
        tuning = system.get("tuning") or {}
        if rule in tuning.get("healing", {}).values():
            depths.add(tuning["depth"])
        if not depths:
            return []
        words = ["--rule", rule, "--sizes", *map(str, sorted(depths))]
        if "utterances" in self.config:
            words += ["--utterances", str(self.config["utterances"])]
        return words

    def _add_healed(self, name, system):
        trials = self._add_trials(name, system)
        for seed in self.seeds:
            for steps in self._control_steps(system, seed):
                # As many further steps for the whole model as healing
                # takes: what pruning costs is not hidden by training longer.
                whole = Pruned(0, steps=steps, run_name="{run}-control")
                self._add_pruned(name, seed, whole)
            for entry in system["study"]:
                if seed in entry.get("seeds", self.seeds):
                    self._add_entry(name, seed, entry, trials)

    def _control_steps(self, system, seed):
        control = system.get("control")
        # A list: as many further steps each, of the first seed.
        if isinstance(control, list):
            return control if seed == self.seeds[0] else []
        # One for each baseline: a healing seed more is no other model.
        own = seed in self.baseline_seeds or len(self.baseline_seeds) == 1
        return [None] if control and own else []

    def _add_entry(self, name, seed, entry, trials):
        """All runs of an entry of a system's ``study``."""
        axes = entry["depths"], entry["healing"], entry.get("steps", [None])
        for depth, healing, steps in itertools.product(*axes):
            one = Pruned(depth, healing, entry.get("path", "speech"), steps)
            one.run_name = entry.get("run_name", one.run_name)
            one.trials = trials.get(healing, {})
            run = self._add_pruned(name, seed, one)
            own = name, seed, depth, healing, steps
            self.pruned[*own, one.path] = run
            if one.path != "speech" and entry.get("differs"):
                self._let_differ(run, one, entry, own)

    def _let_differ(self, run, one, entry, own):
        """Have a run made only where its path removes other layers."""
        name, seed, depth, healing, _ = own
        twin = self.pruned.get((*own, "speech"))
        if twin is None:
            raise self.error(
                f"systems.{name}.study.differs: depth {depth}, healing "
                f"{healing}: no entry before it runs it along speech"
            )
        paths = [self._table(name, seed, path) for path in ("speech", one.path)]
        run.needs += [t for t, _ in paths if t not in run.needs]
        run.differs = {
            "twin": twin.name,
            "tables": [str(file) for _, file in paths],
            "depth": depth,
            "depths": entry["depths"],
            "at_least": entry.get("at_least"),
        }

    def _add_trials(self, name, system):
        """Trials of learning rates, by healing: run's name to its rates."""
        tuning = system.get("tuning") or {}
        trials = enumerate(tuning.get("trials", []), 1)
        pairs = itertools.product(tuning.get("healing", {}).items(), trials)
        tuned: dict[str, dict] = {}
        for (healing, path), (number, rates) in pairs:
            one = Pruned(tuning["depth"], healing, path, tuning["steps"])
            one.run_name = f"{{run}}-trial{number}-{healing}"
            one.options = {**rates, "test_splits": tuning["test_splits"]}
            run = self._add_pruned(name, self.seeds[0], one)
            tuned.setdefault(healing, {})[run.name] = rates
        return tuned

    def _pruned_name(self, name, seed, one):
        run = self._run_name(name, seed)
        # A trial's number tells its steps already.
        steps = f"-k{one.steps}" if one.steps and not one.options else ""
        return one.run_name.format(run=run, **vars(one)) + steps

    def _add_pruned(self, name, seed, one):
        """A pruned and healed run; depth 0 is the baseline's control."""
        system = self.config["systems"][name]
        base = self.baseline(name, seed)
        options = {**self._options(system, "healed"), "seed": seed}
        options |= {**steps_options(one.steps), **one.options}
        options["prune_layers"] = one.depth
        needs = [base, *one.trials]
        if one.depth:
            options["healing"] = one.healing
            own = self.config.get("healings", {}).get(one.healing)
            options |= {"healing_parts": own} if own else {}
            table, options["path_from"] = self._path(name, seed, one.path)
            needs += table
        run_name = self._pruned_name(name, seed, one)
        options |= {"baseline": self.run_folder(base), "run_name": run_name}
        run = self._recipe_run(run_name, "healed", system, options, needs)
        run.trials = one.trials
        if not one.options:
            self._add_scored(run_name, system)
        return run

    def _table(self, name, seed, path):
        """The run that leaves a path, and its file."""
        systems = self.config["systems"]
        own = path in ("speech", "text")
        plans = systems[name].get("plans", [])
        if not own and path not in [*plans, *systems]:
            raise self.error(
                f"systems.{name}.study.path: {path}, choose speech, text, one "
                f"of systems.{name}.plans or one of {', '.join(systems)}"
            )
        if own or path in plans:
            base, kind = self.baseline(name, seed), path
        else:
            base, kind = self.baseline(path, seed), "speech"
        stem = "plan" if path in plans else "redundancy"
        return f"{base}-table-{kind}", self.run_folder(
            base
        ) / f"{stem}-{kind}.json"

    def _path(self, name, seed, path):
        """What a path needs, and the option that names it."""
        table, file = self._table(name, seed, path)
        if path in ("speech", "text"):
            # Without a table of its own the run measures it first.
            return ([table] if table in self.runs else []), path
        if table not in self.runs:
            raise self.error(
                f"systems.{name}.study.path: {path} has no table on speech; "
                f"give systems.{path}.tables: [speech]"
            )
        return [table], file


def read_plan(file, **changes) -> Plan:
    """The plan of a configuration file; keywords are in place of its keys."""
    with of_form(file, ": no study", "Give its keys, as in workflow/config"):
        # $NAME stands for a variable: where data lie is not the study's
        # business.
        told = os.path.expandvars(Path(file).read_text(encoding="utf-8"))
        refuse_bomb(told)
        try:
            config = yaml.safe_load(told)
        except yaml.YAMLError as error:
            raise PlanError(f"{file}: {error}") from None
        if not isinstance(config, dict):
            raise PlanError(
                f"{file}: {config!r:.80} is no study: give its keys"
            )
        plan = Plan({**config, **changes}, str(file))
        for run in plan.runs.values():
            # Words that no command line can have.
            run.typed()
        return plan
