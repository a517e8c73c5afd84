"""What is trained: the projector, adapters, or both; everything else is frozen.

Paper, Section 3.3: removing a block leaves the receiving layer with an input
it does not know. LoRA on that layer's MLP (gate, up, down) and training the
projector on are the two remedies; the strategies are none, decoder,
projector and both.

Authors
 * The speechbrain_ext authors, 2026
"""

import os
from dataclasses import dataclass, field

from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file

from speechbrain_ext.pruning import Block, receiving_layers, renumber

STRATEGIES = ("none", "decoder", "projector", "both")
MLP = ("gate_proj", "up_proj", "down_proj")
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
# PEFT's name of the one adapter that a run trains.
ADAPTER = "healing"


@dataclass(frozen=True)
class Lora:
    """LoRA's numbers (the paper's are lost; these are guesses).

    Arguments
    ---------
    rank : int
        Rank r of the two factors.
    alpha : float
        The update is scaled by alpha / rank.
    dropout : float
        On the adapter's input, in training.

    Example
    -------
    >>> Lora(rank=8).rank
    8
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.05


@dataclass
class TrainableSet:
    """The parameters that are trained, by part: "projector", "adapter".

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
        """Assert that the model trains exactly this, no more and no less.

        Arguments
        ---------
        model : torch.nn.Module
            The speech LLM.

        Raises
        ------
        RuntimeError
            If a parameter is trainable and not in the set, or the reverse.
        """
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


def heal(model, block, strategy="both", lora=None, verbose=True):
    """Make a pruned speech LLM trainable in one of the paper's four ways.

    Nothing is trained here: the training loop is the same as before. With
    adapters at zero the healed model equals the pruned one.

    Arguments
    ---------
    model : speechbrain_ext.model.SpeechLLM
        Already pruned: load, drop, heal, in this order.
    block : Block, iterable of int or None
        What was removed; None for a whole model, which can only be trained
        on ("projector").
    strategy : str
        "none", "decoder" (LoRA on the MLP of each receiving layer),
        "projector" or "both".
    lora : Lora or None
        LoRA's numbers; None: the defaults.
    verbose : bool
        Print the trainable set.

    Returns
    -------
    TrainableSet

    Raises
    ------
    ValueError
        If the strategy is unknown, or there is no receiving layer to adapt.

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> from speechbrain_ext.pruning import Block
    >>> block = Block(1, 2)
    >>> model = tiny_speech_llm(removed=block)
    >>> sorted(heal(model, block, "both", verbose=False).counts())
    ['adapter', 'projector']
    """
    if strategy not in STRATEGIES:
        raise ValueError(
            f"healing: {strategy!r} is none of {', '.join(STRATEGIES)}."
        )
    decoder = model.decoder
    layers = ()
    if strategy in ("decoder", "both"):
        layers = receivers(decoder, block)
        if not layers:
            raise ValueError(
                f"healing: {strategy!r} adapts the receiving layer, but no "
                "layer was removed: choose prune_layers of 1 or more, or "
                "healing: projector."
            )
    return train_parts(
        model,
        projector=strategy in ("projector", "both"),
        adapter=(MLP, layers) if layers else None,
        lora=lora,
        verbose=verbose,
    )


def train_parts(model, projector, adapter=None, lora=None, verbose=True):
    """Freeze everything, then open exactly the parts that are named.

    Arguments
    ---------
    model : speechbrain_ext.model.SpeechLLM
        The model.
    projector : bool
        Train the projector (and the speech markers, where there are some).
    adapter : tuple or None
        Module names and layer indices to adapt, such as
        ``(ATTENTION, range(28))``.
    lora : Lora or None
        LoRA's numbers.
    verbose : bool
        Print the trainable set.

    Returns
    -------
    TrainableSet

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> model = tiny_speech_llm()
    >>> trainable = train_parts(model, projector=True, verbose=False)
    >>> sorted(trainable.counts())
    ['projector']
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
    for _, parameter in trainable.named():
        parameter.requires_grad_(True)
    trainable.check(model)
    if verbose:
        print(trainable)
    return trainable


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
    """
    if removed is None:
        return ()
    gone = removed.removed if isinstance(removed, Block) else set(removed)
    return receiving_layers(removed, decoder.num_layers + len(gone))


def add_adapter(decoder, modules, layers, lora=None, name=ADAPTER):
    """Attach LoRA to some modules of some layers, at zero.

    Arguments
    ---------
    decoder : speechbrain_ext.decoder.Decoder
        Gets the adapter, in place.
    modules : tuple of str
        `MLP`, `ATTENTION` or both joined.
    layers : iterable of int
        Layer indices as they are now.
    lora : Lora or None
        LoRA's numbers.
    name : str
        PEFT's name for the adapter.
    """
    lora = lora or Lora()
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(modules),
        layers_to_transform=list(layers),
        layers_pattern="layers",
        base_model_name_or_path=decoder.source,
        task_type="CAUSAL_LM",
    )
    decoder.use_adapter(_wrap(decoder, config, name))


def _wrap(decoder, config, name):
    """PEFT's adapter inside a decoder, beside others (PeftModel)."""
    if decoder.adapter is not None:
        decoder.adapter.add_adapter(name, config)
        return decoder.adapter
    adapter = get_peft_model(decoder.lm, config, adapter_name=name)
    # With gradient checkpointing PEFT makes the embeddings need a gradient,
    # which would then be computed through every layer, for nothing.
    decoder.lm.disable_input_require_grads()
    return adapter


def save_adapter(decoder, folder):
    """Write the adapter in PEFT's own format, into ``folder/<name>/``.

    Arguments
    ---------
    decoder : speechbrain_ext.decoder.Decoder
        With an adapter.
    folder : str
        Where to.

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> model = tiny_speech_llm()
    >>> folder = str(getfixture("tmpdir"))
    >>> add_adapter(model.decoder, MLP, [1])
    >>> save_adapter(model.decoder, folder)
    >>> os.path.isdir(os.path.join(folder, ADAPTER))
    True
    """
    decoder.adapter.save_pretrained(folder, safe_serialization=True)


def load_adapter(decoder, folder, kept=None, merge=False, name=ADAPTER):
    """Put a saved adapter back, also onto fewer layers than it was made for.

    Arguments
    ---------
    decoder : speechbrain_ext.decoder.Decoder
        Gets the adapter, in place.
    folder : str
        A PEFT folder.
    kept : tuple of int or None
        Where the adapter was made for the whole decoder: which of its layers
        this one has. The adapter's other layers are left out.
    merge : bool
        Fold the adapter into the weights.
    name : str
        PEFT's name for it; several of different names may be loaded.

    Raises
    ------
    FileNotFoundError
        If there is no adapter.
    ValueError
        If it does not fit this decoder.

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> model = tiny_speech_llm()
    >>> folder = str(getfixture("tmpdir"))
    >>> add_adapter(model.decoder, MLP, [1])
    >>> save_adapter(model.decoder, folder)
    >>> other = tiny_speech_llm().decoder
    >>> load_adapter(other, os.path.join(folder, ADAPTER), merge=True)
    >>> other.num_layers
    4
    """
    path = os.path.join(folder, "adapter_model.safetensors")
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path} is not there: no adapter was saved.")
    config = LoraConfig.from_pretrained(folder)
    config.inference_mode = False
    deepest = max(config.layers_to_transform)
    if kept is None and deepest >= decoder.num_layers:
        raise ValueError(
            f"{folder}: the adapter was made for a decoder of at least "
            f"{deepest + 1} layers, this one has {decoder.num_layers}. Say "
            "which of its layers are kept, or give another adapter."
        )
    kept = kept or tuple(range(decoder.num_layers))
    new_index = {old: new for new, old in enumerate(kept)}
    config.layers_to_transform = [
        new_index[old] for old in config.layers_to_transform if old in new_index
    ]
    state = {
        renumber(key, new_index): value
        for key, value in load_file(path).items()
    }
    state.pop(None, None)
    adapter = _wrap(decoder, config, name)
    report = set_peft_model_state_dict(adapter, state, name)
    if report.unexpected_keys:
        raise ValueError(
            f"{folder}: the adapter does not fit this decoder "
            f"({report.unexpected_keys[0]}). It was made for another model."
        )
    decoder.use_adapter(adapter)
    if merge:
        decoder.lm = adapter.merge_and_unload()
        decoder.use_adapter(None)
