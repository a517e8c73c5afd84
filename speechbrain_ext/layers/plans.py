"""Removal plans: which layers go, chosen by which rule, on what, at what cost.

A plan names any set of layers, in a row or not. Plans of one rule, one for
each size, are a small JSON file beside the run they were chosen on;
``path_from`` takes it where it takes a redundancy table.
"""

import json
import operator
from dataclasses import dataclass, field

from speechbrain_ext.layers.removal import (
    gaps,
    kept_layers,
    receiving_layers,
    removed_layers,
)
from speechbrain_ext.runs.files import write_json

FORMAT = "speechbrain_ext.plans/1"


@dataclass(frozen=True)
class Plan:
    """Layers to remove, and why these.

    It goes wherever a `Block` or a set of layers goes: iterating over it
    gives the layers.

    Arguments
    ---------
    layers : iterable of int
        Old indices of the removed layers; kept as a sorted tuple.
    rule : str
        Name of the rule that chose them.
    num_layers : int
        Layers of the whole decoder.
    model : str
        That decoder's name.
    data : dict
        What they were chosen on: task, sets, utterances, input.
    value : float or None
        The rule's score of them; None for a rule that looks at nothing.
    about : dict
        What the score is and what the choice cost: seconds, layer_passes.

    Raises
    ------
    ValueError
        If there is no such layer, none is named, or the last one is.
    """

    layers: tuple
    rule: str
    num_layers: int
    model: str = ""
    data: dict = field(default_factory=dict)
    value: float | None = None
    about: dict = field(default_factory=dict)

    def __post_init__(self):
        layers = [operator.index(layer) for layer in self.layers]
        if not layers or len(set(layers)) < len(layers):
            raise ValueError(
                f"A plan names each removed layer once, and at least one: "
                f"{layers} does not."
            )
        layers = removed_layers(layers, self.num_layers)
        object.__setattr__(self, "layers", layers)

    def __iter__(self):
        return iter(self.layers)

    def __len__(self):
        return len(self.layers)

    @property
    def size(self):
        """Number of removed layers (int)."""
        return len(self.layers)

    @property
    def removed(self):
        """The removed layers, as a `Block` calls them (tuple of int)."""
        return self.layers

    @property
    def kept(self):
        """Old indices of the layers that stay (tuple of int)."""
        return kept_layers(self.layers, self.num_layers)

    @property
    def gaps(self):
        """The runs of removed layers (tuple of Block)."""
        return gaps(self.layers, self.num_layers)

    @property
    def receiving(self):
        """New indices of the receiving layers, one for a gap."""
        return receiving_layers(self.layers, self.num_layers)

    @property
    def start(self):
        """First removed layer, or None where they are not in a row."""
        return self.layers[0] if len(self.gaps) == 1 else None

    def check_model(self, num_layers, name, path="the plan"):
        """Refuse the plan if it was made for another model."""
        if num_layers != self.num_layers or self.model != name:
            raise ValueError(
                f"path_from: {path} was chosen for {self.model} with "
                f"{self.num_layers} layers, but this run prunes {name} with "
                f"{num_layers}. Give a plan of this backbone: measure.py "
                f"--rule {self.rule} makes one."
            )


def save_plans(path, plans):
    """Write plans of one rule, one for each size, as JSON."""
    plans = sorted(plans, key=len)
    if not plans:
        raise ValueError(f"{path}: there is no plan to save.")
    shared = ("rule", "model", "num_layers", "data")
    head = {name: getattr(plans[0], name) for name in shared}
    for one in plans[1:]:
        for name, value in head.items():
            if getattr(one, name) != value:
                raise ValueError(
                    f"{path}: plans of one file share their {name}, but "
                    f"{value!r} and {getattr(one, name)!r} were given: save "
                    "them in two files."
                )
    sizes = [one.size for one in plans]
    if len(set(sizes)) < len(sizes):
        raise ValueError(f"{path}: two plans of one size among {sizes}.")
    write_json(
        path,
        {
            "format": FORMAT,
            **head,
            "plans": [
                {
                    "size": one.size,
                    "layers": one.layers,
                    "value": one.value,
                    "about": one.about,
                }
                for one in plans
            ],
        },
    )


def is_plans(path):
    """Whether a file says of itself that it holds plans.

    Arguments
    ---------
    path : str
        Any file.

    Returns
    -------
    bool
    """
    try:
        with open(path, encoding="utf-8") as stream:
            content = json.load(stream)
    except (OSError, ValueError):
        return False
    known = content.get("format") if isinstance(content, dict) else None
    return isinstance(known, str) and known.startswith("speechbrain_ext.plans/")


def load_plans(path):
    """Read plans that `save_plans` wrote.

    Arguments
    ---------
    path : str
        The file.

    Returns
    -------
    list of Plan
        The smallest first.

    Raises
    ------
    ValueError
        If the file holds no plans, was cut short, or names layers that
        cannot be removed.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            content = json.load(stream)
        if content.get("format") != FORMAT:
            raise ValueError(f"its format is {content.get('format')!r}")
        shared = ("rule", "num_layers", "model", "data")
        head = {name: content[name] for name in shared}
        for name, kind in zip(shared, (str, int, str, dict)):
            if not isinstance(head[name], kind):
                raise ValueError(f"its {name} is {head[name]!r:.40}")
        return [
            Plan(
                one["layers"],
                value=None if one["value"] is None else float(one["value"]),
                about=dict(one["about"]),
                **head,
            )
            for one in content["plans"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is no file of plans ({error}). Make one with measure.py "
            "--rule, or give another file."
        ) from error


def plan_of_size(path, size, num_layers, name):
    """The plan of a size in a file, checked against a backbone."""
    plans = load_plans(path)
    for plan in plans:
        plan.check_model(num_layers, name, path)
        if plan.size == size:
            return plan
    sizes = ", ".join(str(plan.size) for plan in plans) or "none"
    rule = f" --rule {plans[0].rule}" if plans else ""
    raise ValueError(
        f"prune_layers: {size}, but {path} has no plan of that size (there "
        f"are: {sizes}). Choose one of these, or add it with measure.py"
        f"{rule} --sizes {size}."
    )
