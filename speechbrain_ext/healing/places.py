"""Where healing acts in a pruned decoder, and how much a budget buys there.

Authors
 * The speechbrain_ext authors, 2026
"""

from dataclasses import replace

from speechbrain_ext.healing.adapters import MLP, MODULES
from speechbrain_ext.pruning import Block, decoder_layers, receiving_layers

WHERE = ("receivers", "after", "all")
# Budgets that are told by what the paper's LoRA takes: on the MLP of all
# receiving layers, or of one, as after a run of layers.
PAPER, BLOCK = "paper", "block"


def receivers(decoder, removed):
    """New indices of the layers that receive across a gap.

    Arguments
    ---------
    decoder : speechbrain_ext.decoder.Decoder
        Already pruned.
    removed : Block, iterable of int or None
        What was removed.

    Returns
    -------
    tuple of int

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> receivers(tiny_speech_llm(removed=[1]).decoder, [1])
    (1,)
    """
    if removed is None:
        return ()
    gone = removed.removed if isinstance(removed, Block) else set(removed)
    return receiving_layers(removed, decoder.num_layers + len(gone))


def layers_where(where, receiving, num_layers):
    """Layers by a word for them.

    Arguments
    ---------
    where : str or list of int
        "receivers", "after" (all from the first gap on), "all", or indices
        as they are after pruning.
    receiving : tuple of int
        The receiving layers.
    num_layers : int
        Layers that are kept.

    Returns
    -------
    tuple of int

    Raises
    ------
    ValueError
        If the words or the layers are not there.

    Example
    -------
    >>> layers_where("after", (1, 3), 5)
    (1, 2, 3, 4)
    """
    if where == "all":
        return tuple(range(num_layers))
    if where == "receivers":
        return tuple(receiving)
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


def values_per_rank(decoder, layers, modules):
    """Values that LoRA of rank 1 trains: inputs and outputs together.

    Arguments
    ---------
    decoder : speechbrain_ext.decoder.Decoder
        Without adapters.
    layers : iterable of int
        Layer indices as they are now.
    modules : iterable of str
        Names of linear layers, such as `MLP`.

    Returns
    -------
    int

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> values_per_rank(tiny_speech_llm().decoder, [0], MLP)
    240
    """
    return sum(
        module.in_features + module.out_features
        for index in layers
        for name, module in decoder_layers(decoder)[index].named_modules()
        if name.rpartition(".")[2] in modules
    )


def lora_for(decoder, adapters, layers, receiving, lora):
    """LoRA's numbers for a part: a rank, or what a budget allows.

    The scale alpha / rank stays what it is.

    Arguments
    ---------
    decoder : speechbrain_ext.decoder.Decoder
        Already pruned, without adapters.
    adapters : dict
        Keys used: modules, rank, budget.
    layers : iterable of int
        Where they go.
    receiving : tuple of int
        The receiving layers, for the budgets "paper" and "block".
    lora : Lora
        The settings' numbers.

    Returns
    -------
    Lora

    Raises
    ------
    ValueError
        If the budget does not buy rank 1.

    Example
    -------
    >>> from speechbrain_ext.healing.adapters import Lora
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> decoder = tiny_speech_llm(removed=[1]).decoder
    >>> adapters = {"modules": "both", "rank": None, "budget": "paper"}
    >>> lora_for(decoder, adapters, [1], (1,), Lora(rank=16)).rank
    8
    """
    rank, budget = adapters["rank"], adapters["budget"]
    if budget is not None:
        if budget in (PAPER, BLOCK):
            own = receiving[:1] if budget == BLOCK else receiving
            budget = lora.rank * values_per_rank(decoder, own, MLP)
        one = values_per_rank(decoder, layers, MODULES[adapters["modules"]])
        rank = budget // one
        if rank < 1:
            raise ValueError(
                f"healing_parts.adapters.budget: {budget}, but rank 1 on "
                f"{adapters['modules']} of the layers {list(layers)} takes "
                f"{one}: give at least as much, or fewer layers."
            )
    if rank is None:
        return lora
    return replace(lora, rank=rank, alpha=lora.alpha * rank / lora.rank)
