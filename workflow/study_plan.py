"""From a study's configuration to the list of its runs.

One YAML says which systems, depths, healings, paths and seeds a study has;
this turns it into runs with the command line of each, exactly as a person
would type it in the recipe's folder. Nothing here runs anything.

Authors
 * The speechbrain_ext authors, 2026
"""

import itertools
from pathlib import Path

import yaml
from fingerprints import made_of
from study import Run, Study

ROOT = Path(__file__).resolve().parents[1]
KEYS = {
    "results": str,
    "seeds": list,
    "baseline_seeds": list,
    "cards": int,
    "features": bool,
    "set": dict,
    "data": dict,
    "systems": dict,
}
SYSTEM_KEYS = (
    "recipe data baseline healed set set_baseline set_healed tables control "
    "study score needs"
).split()
STUDY_KEYS = ("depths", "healing", "path")


class PlanError(ValueError):
    """What is wrong with a study's configuration, and how to mend it."""


class Plan(Study):
    """A study's runs, in an order in which they could be made.

    Arguments
    ---------
    config : dict
        As the YAML has it.
    file : str
        Its name, for errors.
    """

    def __init__(self, config, file="configuration"):
        self.config, self.file = config, file
        self._check(config, KEYS, "")
        super().__init__(config["results"], cards=config.get("cards", 0))
        self.seeds = config["seeds"]
        self.baseline_seeds = config.get("baseline_seeds") or self.seeds
        for name, one in config.get("data", {}).items():
            self._add_data(name, one)
        for name, system in config["systems"].items():
            self._check(system, SYSTEM_KEYS, f"systems.{name}.")
        for name in config["systems"]:
            self._add_baselines(name)
        for name in config["systems"]:
            self._add_healed(name)

    def _check(self, given, known, where):
        for key in given:
            if key not in known:
                raise PlanError(
                    f"{self.file}: {where}{key}: unknown, choose from "
                    f"{', '.join(known)}"
                )
        for key in ("results", "seeds", "systems") if not where else ():
            if not given.get(key):
                raise PlanError(f"{self.file}: {key}: missing, give one")

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

    def _add_healed(self, name):
        system = self.config["systems"][name]
        for seed in self.seeds:
            if system.get("control"):
                self._add_pruned(name, seed, 0, None, None)
            for one in system.get("study", []):
                self._check(one, STUDY_KEYS, f"systems.{name}.study.")
                for depth, healing in itertools.product(
                    one["depths"], one["healing"]
                ):
                    path = one.get("path", "speech")
                    self._add_pruned(name, seed, depth, healing, path)

    def _add_pruned(self, name, seed, depth, healing, path):
        """A pruned and healed run; depth 0 is the baseline's control."""
        system = self.config["systems"][name]
        base = self._base(name, seed)
        run_name = f"{name}-s{seed}-n{depth}-{healing}-{path}"
        options = {**self._options(system, "healed"), "seed": seed}
        needs = [base]
        if not depth:
            # As many further steps for the whole model as healing takes:
            # what pruning costs is not hidden by training longer.
            run_name = f"{name}-s{seed}-control"
            options["prune_layers"] = 0
        else:
            options |= {"prune_layers": depth, "healing": healing}
            table, options["path_from"] = self._path(name, base, seed, path)
            needs += table
        options |= {
            "baseline": self.run_folder(base),
            "run_name": run_name,
        }
        self._recipe_run(
            run_name, "healed", system, system["healed"], options, needs
        )
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
        if path not in self.config["systems"]:
            raise PlanError(
                f"{self.file}: systems.{name}.study.path: {path}, choose "
                f"speech, text or one of {', '.join(self.config['systems'])}"
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
    """The plan of a configuration file.

    Arguments
    ---------
    file : str or Path
        A YAML such as ``config/mini.yaml``.
    **changes : dict
        Top-level keys to use in place of the file's.

    Returns
    -------
    Plan

    Raises
    ------
    PlanError
        Naming the key, the value and the mend.
    """
    with open(file, encoding="utf-8") as stream:
        config = yaml.safe_load(stream)
    return Plan({**config, **changes}, str(file))
