"""From a healing's name to a model that is ready to be trained so.

Paper, Section 3.3: removing a block leaves the receiving layer with an input
it does not know. LoRA on that layer's MLP (gate, up, down) and training the
projector on are the two remedies; the strategies are none, decoder,
projector and both.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from speechbrain_ext.healing.lora import ADAPTER, MODULES, Lora, add_adapter
from speechbrain_ext.healing.presets import Healing
from speechbrain_ext.later import later
from speechbrain_ext.layers.removal import Removal

if TYPE_CHECKING:
    from speechbrain_ext.model.speech_llm import SpeechLLM

WHERE = ("receivers", "after", "all")


def layers_where(where: str | list[int], removed: Removal) -> tuple[int, ...]:
    """Layers by a word for them, as they are numbered after pruning."""
    receiving, num_layers = removed.receiving, len(removed.kept)
    if where == "all":
        return tuple(range(num_layers))
    if where == "receivers":
        return receiving
    if where == "after":
        return tuple(range(receiving[0], num_layers)) if receiving else ()
    if isinstance(where, str):
        raise ValueError(
            f"where: {where!r} is none of {', '.join(WHERE)}, or a list."
        )
    wrong = [index for index in where if not 0 <= index < num_layers]
    if wrong:
        raise ValueError(
            f"where: {list(where)}, but {num_layers} layers are kept, "
            f"numbered 0 to {num_layers - 1}: leave out {wrong}."
        )
    return tuple(sorted(where))


def lora_for(decoder, adapters, layers, removed, lora):
    """LoRA's numbers for a part: a rank, or what a budget allows."""
    rank = adapters["rank"]
    if adapters["budget"] is not None:
        budgets = later("healing.budgets", "healing_parts.adapters.budget")
        rank = budgets.rank_of(decoder, adapters, layers, removed, lora)
    if rank is None:
        return lora
    # The scale alpha / rank stays what it is.
    return replace(lora, rank=rank, alpha=lora.alpha * rank / lora.rank)


@dataclass
class TrainableSet:
    """The trained parameters by part: "projector", "adapter", "bridge".

    Arguments
    ---------
    parts : dict
        Part to a list of (name, parameter).

    Example
    -------
    >>> from torch import nn
    >>> layer = nn.Linear(2, 3)
    >>> parts = {"projector": list(layer.named_parameters())}
    >>> TrainableSet(parts).counts()
    {'projector': 9}
    """

    parts: dict = field(default_factory=dict)

    def named(self):
        """All (name, parameter) pairs (list)."""
        return [pair for pairs in self.parts.values() for pair in pairs]

    def parameters(self, part):
        """One part's parameters (list; empty if it is not trained)."""
        return [parameter for _, parameter in self.parts.get(part, [])]

    def counts(self):
        """Part to number of trained values (dict)."""
        return {
            part: sum(parameter.numel() for _, parameter in pairs)
            for part, pairs in self.parts.items()
        }

    def check(self, model):
        """Assert that the model trains exactly this, no more and no less."""
        ours = {id(parameter) for _, parameter in self.named()}
        wrong = [
            name
            for name, parameter in model.named_parameters()
            if parameter.requires_grad != (id(parameter) in ours)
        ]
        if wrong:
            raise RuntimeError(
                f"Not the trainable set that was asked for: {wrong[:5]}"
            )

    def __str__(self):
        """One line for each part: names in short, number of values."""
        if not self.named():
            return "Trained: nothing"
        counts = self.counts()
        return "\n".join(
            f"Trained: {part}, {counts[part]:,} parameters in "
            f"{len(pairs)} tensors"
            for part, pairs in self.parts.items()
        )


def train_parts(
    model: SpeechLLM,
    projector: bool,
    adapter: tuple[Iterable[str], Iterable[int]] | None = None,
    lora: Lora | None = None,
    verbose: bool = True,
    bridge: bool = False,
) -> TrainableSet:
    """Freeze everything, then open exactly the parts that are named.

    An adapter is new: LoRA on some modules of some layers.
    """
    model.requires_grad_(False)
    trainable = TrainableSet()
    if projector:
        parts = {"projector": model.projector, "markers": model.markers}
        trainable.parts["projector"] = [
            (f"{prefix}.{name}", parameter)
            for prefix, module in parts.items()
            if module is not None
            for name, parameter in module.named_parameters()
        ]
    if adapter is not None:
        add_adapter(model.decoder, *adapter, lora=lora)
        trainable.parts["adapter"] = [
            (f"decoder.{name}", parameter)
            for name, parameter in model.decoder.named_parameters()
            if "lora_" in name
        ]
    if bridge:
        trainable.parts["bridge"] = [
            (f"decoder.{name}", parameter)
            for name, parameter in model.decoder.named_parameters()
            if f".bridges.named.{ADAPTER}." in name
        ]
    for _, parameter in trainable.named():
        parameter.requires_grad_(True)
    trainable.check(model)
    if verbose:
        print(trainable)
    return trainable


def heal(
    model: SpeechLLM,
    block: Iterable[int] | None,
    strategy: str | Healing = "both",
    lora: Lora | None = None,
    verbose: bool = True,
    maps: dict | None = None,
) -> TrainableSet:
    """Make a pruned speech LLM trainable in one of the ways of healing.

    Nothing is trained here: the training loop is the same as before. With
    adapters and bridges that start from nothing the healed model equals the
    pruned one.

    Arguments
    ---------
    model : speechbrain_ext.model.speech_llm.SpeechLLM
        Already pruned: load, drop, heal, in this order.
    block : Block, Plan, iterable of int or None
        What was removed; None for a whole model, which can only be trained
        on ("projector").
    strategy : str or Healing
        "none", "decoder" (LoRA on the MLP of each receiving layer),
        "projector" or "both", a preset's name, or one's own declared parts.
    lora : Lora or None
        LoRA's numbers; None: the defaults.
    verbose : bool
        Print the trainable set.
    maps : dict or None
        Receiving layer to its map in closed form, where the healing starts
        from it; see `speechbrain_ext.healing.closed_form`.

    Returns
    -------
    TrainableSet

    Raises
    ------
    ValueError
        If the strategy is unknown, there is no receiving layer to adapt, a
        bridge's rank is none, or the maps are not there.

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> from speechbrain_ext.layers import Block
    >>> block = Block(1, 2)
    >>> model = tiny_speech_llm(removed=block)
    >>> sorted(heal(model, block, "both", verbose=False).counts())
    ['adapter', 'projector']
    """
    healing, decoder = Healing.of(strategy), model.decoder
    if not isinstance(block, Removal):
        block = set() if block is None else set(block)
    removed = Removal.of(block, decoder.num_layers + len(block))
    places = check_places(healing, removed)
    if healing.bridge is not None:
        bridging = later("healing.bridge", "healing")
        bridging.build_bridges(decoder, healing.bridge, places["bridge"], maps)
    adapter = None
    if healing.adapters is not None:
        layers = places["adapters"]
        adapter = (MODULES[healing.adapters["modules"]], layers)
        lora = lora_for(
            decoder, healing.adapters, layers, removed, lora or Lora()
        )
    form = (healing.bridge or {}).get("form")
    return train_parts(
        model,
        projector=healing.projector,
        adapter=adapter,
        lora=lora,
        verbose=verbose,
        bridge=form == "trained",
    )


def check_places(
    healing: Healing, removed: Removal
) -> dict[str, tuple[int, ...]]:
    """The layers that each part acts on; refuses a part without any."""
    found = {}
    for part in ("adapters", "bridge"):
        words = getattr(healing, part)
        if words is None:
            continue
        try:
            found[part] = layers_where(words["where"], removed)
        except ValueError as error:
            raise ValueError(f"healing_parts.{part}.{error}") from None
        if not found[part]:
            raise ValueError(
                f"healing: {healing.name!r} adapts the receiving layer, but "
                "no layer was removed: choose prune_layers of 1 or more, or "
                "healing: projector."
            )
    if healing.bridge is not None and healing.bridge["form"] == "folded":
        folds = later("healing.closed_form", "healing")
        folds.check_layer_before(found["bridge"])
    return found
