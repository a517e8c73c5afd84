"""What is trained, part by part; everything else is frozen.

Authors
 * The speechbrain_ext authors, 2026
"""

from dataclasses import dataclass, field

from speechbrain_ext.healing.adapters import ADAPTER, add_adapter


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


def train_parts(
    model, projector, adapter=None, lora=None, verbose=True, bridge=False
):
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
    bridge : bool
        Train the bridges that the decoder has.

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
