"""The rank that a budget of trained values allows."""

from speechbrain_ext.healing.lora import MLP, MODULES
from speechbrain_ext.layers.lm_calls import decoder_layers

# Budgets that are told by what the paper's LoRA takes: on the MLP of all
# receiving layers, or of one, as after a run of layers.
PAPER, BLOCK = "paper", "block"


def values_per_rank(decoder, layers, modules):
    """Values that LoRA of rank 1 trains: inputs and outputs together."""
    return sum(
        module.in_features + module.out_features
        for index in layers
        for name, module in decoder_layers(decoder)[index].named_modules()
        if name.rpartition(".")[2] in modules
    )


def rank_of(decoder, adapters, layers, removed, lora) -> int:
    """The rank of a part's LoRA on some layers."""
    budget = adapters["budget"]
    if budget in (PAPER, BLOCK):
        own = removed.receiving
        own = own[:1] if budget == BLOCK else own
        budget = lora.rank * values_per_rank(decoder, own, MLP)
    one = values_per_rank(decoder, layers, MODULES[adapters["modules"]])
    rank = budget // one
    if rank < 1:
        raise ValueError(
            f"healing_parts.adapters.budget: {budget}, but rank 1 on "
            f"{adapters['modules']} of the layers {list(layers)} takes "
            f"{one}: give at least as much, or fewer layers."
        )
    return rank
