"""From a healing's name to a model that is ready to be trained so.

Paper, Section 3.3: removing a block leaves the receiving layer with an input
it does not know. LoRA on that layer's MLP (gate, up, down) and training the
projector on are the two remedies; the strategies are none, decoder,
projector and both.

Authors
 * The speechbrain_ext authors, 2026
"""

from speechbrain_ext.healing.adapters import MODULES, Lora
from speechbrain_ext.healing.bridge import add_bridges
from speechbrain_ext.healing.folding import check_layer_before, fold_maps
from speechbrain_ext.healing.places import layers_where, lora_for, receivers
from speechbrain_ext.healing.presets import healing_parts
from speechbrain_ext.healing.trainable import train_parts


def heal(model, block, strategy="both", lora=None, verbose=True, maps=None):
    """Make a pruned speech LLM trainable in one of the ways of healing.

    Nothing is trained here: the training loop is the same as before. With
    adapters and bridges that start from nothing the healed model equals the
    pruned one.

    Arguments
    ---------
    model : speechbrain_ext.model.SpeechLLM
        Already pruned: load, drop, heal, in this order.
    block : Block, iterable of int or None
        What was removed; None for a whole model, which can only be trained
        on ("projector").
    strategy : str or dict
        "none", "decoder" (LoRA on the MLP of each receiving layer),
        "projector" or "both", a preset's name, or parts as
        `speechbrain_ext.healing.healing_parts` gives them.
    lora : Lora or None
        LoRA's numbers; None: the defaults.
    verbose : bool
        Print the trainable set.
    maps : dict or None
        Receiving layer to its map in closed form, where the healing starts
        from it; see `speechbrain_ext.closed_form_map`.

    Returns
    -------
    TrainableSet

    Raises
    ------
    ValueError
        If the strategy is unknown, there is no receiving layer to adapt, or
        the maps are not there.

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> from speechbrain_ext.pruning import Block
    >>> block = Block(1, 2)
    >>> model = tiny_speech_llm(removed=block)
    >>> sorted(heal(model, block, "both", verbose=False).counts())
    ['adapter', 'projector']
    """
    parts, name = strategy, "healing_parts"
    if not isinstance(strategy, dict):
        parts, name = healing_parts(strategy), strategy
    decoder = model.decoder
    receiving = receivers(decoder, block)
    where = check_places(parts, receiving, decoder.num_layers, name)
    if parts["bridge"] is not None:
        _build_bridges(decoder, parts["bridge"], where["bridge"], maps)
    adapter = None
    if parts["adapters"] is not None:
        layers, lora = where["adapters"], lora or Lora()
        lora = lora_for(decoder, parts["adapters"], layers, receiving, lora)
        adapter = (MODULES[parts["adapters"]["modules"]], layers)
    form = (parts["bridge"] or {}).get("form")
    return train_parts(
        model,
        projector=parts["projector"],
        adapter=adapter,
        lora=lora,
        verbose=verbose,
        bridge=form == "trained",
    )


def check_places(parts, receiving, num_layers, name="healing_parts"):
    """The layers that each part acts on.

    Arguments
    ---------
    parts : dict
        As `speechbrain_ext.healing.healing_parts` gives it.
    receiving : tuple of int
        The receiving layers of the pruned decoder.
    num_layers : int
        Layers that are kept.
    name : str
        The healing's name, for errors.

    Returns
    -------
    dict
        "adapters" and "bridge", those that are there, to layer indices.

    Raises
    ------
    ValueError
        If a part has no layer to act on.

    Example
    -------
    >>> check_places(healing_parts("both"), (2,), 5)
    {'adapters': (2,)}
    """
    found = {}
    for part in ("adapters", "bridge"):
        if parts[part] is None:
            continue
        where = parts[part]["where"]
        try:
            found[part] = layers_where(where, receiving, num_layers)
        except ValueError as error:
            raise ValueError(f"healing_parts.{part}.{error}") from None
        if not found[part]:
            raise ValueError(
                f"healing: {name!r} adapts the receiving layer, but no "
                "layer was removed: choose prune_layers of 1 or more, or "
                "healing: projector."
            )
    if parts["bridge"] is not None and parts["bridge"]["form"] == "folded":
        check_layer_before(found["bridge"])
    return found


def _build_bridges(decoder, bridge, layers, maps):
    """Bridges, or maps folded in, as a healing's part says."""
    if bridge["start"] == "map":
        missing = sorted(set(layers) - set(maps or {}))
        if missing:
            raise ValueError(
                "healing: the bridge starts from the closed-form map, which "
                f"was not fitted for the layers {missing}: give heal(maps=...)"
            )
    else:
        maps = None
    if bridge["form"] == "folded":
        weights = {index: maps[index].weight_DD for index in layers}
        fold_maps(decoder, weights)
    else:
        add_bridges(decoder, layers, bridge["rank"], maps)
