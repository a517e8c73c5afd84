"""Removal plans: which layers go, chosen by which rule, on what, at what cost.

Plans of one rule, one for each size, are a small JSON file beside the run
they were chosen on; ``path_from`` takes it where it takes a redundancy table.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from speechbrain_ext.layers.removal import Removal
from speechbrain_ext.runs.files import format_of, of_form, write_json

FORMAT = "speechbrain_ext.plans/1"
# What plans of one file share, and of which type it is there.
SHARED = {"rule": str, "model": str, "num_layers": int, "data": dict}


@dataclass(frozen=True)
class Plan(Removal):
    """Layers to remove, and why these.

    Arguments
    ---------
    layers : iterable of int
        Old indices of the removed layers; kept as a sorted tuple.
    num_layers : int
        Layers of the whole decoder.
    rule : str
        Name of the rule that chose them.
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
        If there is no such layer, none or one twice is named, or the last
        one is.
    """

    rule: str = ""
    model: str = ""
    data: dict = field(default_factory=dict)
    value: float | None = None
    about: dict = field(default_factory=dict)

    def __post_init__(self):
        named = list(self.layers)
        object.__setattr__(self, "layers", named)
        super().__post_init__()
        if not named or len(self.layers) < len(named):
            raise ValueError(
                f"A plan names each removed layer once, and at least one: "
                f"{named} does not."
            )

    def check_model(self, num_layers: int, name: str, path="the plan"):
        """Refuse the plan if it was made for another model."""
        if num_layers != self.num_layers or self.model != name:
            raise ValueError(
                f"path_from: {path} was chosen for {self.model} with "
                f"{self.num_layers} layers, but this run prunes {name} with "
                f"{num_layers}. Give a plan of this backbone: measure.py "
                f"--rule {self.rule} makes one."
            )


def save_plans(path: str, plans: list[Plan]) -> None:
    """Write plans of one rule, one for each size, as JSON."""
    plans = sorted(plans, key=len)
    if not plans:
        raise ValueError(f"{path}: there is no plan to save.")
    head = {name: getattr(plans[0], name) for name in SHARED}
    for plan in plans[1:]:
        for name, value in head.items():
            if getattr(plan, name) != value:
                raise ValueError(
                    f"{path}: plans of one file share their {name}, but "
                    f"{value!r} and {getattr(plan, name)!r} were given: save "
                    "them in two files."
                )
    sizes = [plan.size for plan in plans]
    if len(set(sizes)) < len(sizes):
        raise ValueError(f"{path}: two plans of one size among {sizes}.")
    own = ("size", "layers", "value", "about")
    entries = [{key: getattr(plan, key) for key in own} for plan in plans]
    write_json(path, {"format": FORMAT, **head, "plans": entries})


def is_plans(path: str) -> bool:
    """Whether a file says of itself that it holds plans."""
    return format_of(path).startswith("speechbrain_ext.plans/")


def load_plans(path: str) -> list[Plan]:
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
    mend = "Make one with measure.py --rule, or give another file."
    with of_form(path, " is no file of plans", mend):
        with open(path, encoding="utf-8") as stream:
            content = json.load(stream)
        if content.get("format") != FORMAT:
            raise ValueError(f"its format is {content.get('format')!r:.80}")
        head = {name: content[name] for name in SHARED}
        for name, kind in SHARED.items():
            if not isinstance(head[name], kind):
                raise ValueError(f"its {name} is {head[name]!r:.40}")
        return [
            Plan(
                entry["layers"],
                value=None if entry["value"] is None else float(entry["value"]),
                about=dict(entry["about"]),
                **head,
            )
            for entry in content["plans"]
        ]


def plan_of_size(path: str, size: int, num_layers: int, name: str) -> Plan:
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
        f"{rule} --layers {size}."
    )


def about(plan: Plan) -> dict:
    """What a run's result tells of its plan."""
    return {
        **plan.about,
        **plan.data,
        "model": plan.model,
        "rule": plan.rule,
        "layers": list(plan.layers),
        "value": plan.value,
    }
