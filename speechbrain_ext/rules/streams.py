"""The residual stream of a decoder, and what is predicted from it.

Nothing here knows of rotary embeddings or masks: a real pass of the model
hands each layer what it needs, and that is kept for running it again.

Authors
 * The speechbrain_ext authors, 2026
"""

import contextlib
from dataclasses import dataclass, field

import torch

from speechbrain_ext.lm_calls import final_norm, logits_of
from speechbrain_ext.prompt import IGNORE, positions_from_mask
from speechbrain_ext.pruning import base_model, causal_lm
from speechbrain_ext.rules.data import input_of

INPUTS = ("inputs_embeds", "input_ids", "attention_mask", "position_ids")
# Positions whose logits are held at once.
POSITIONS = 256


@dataclass
class Streams:
    """What each layer of a decoder was called with, for one batch.

    Arguments
    ---------
    before : list of torch.Tensor
        The residual stream before each layer, ``[B, Q, D]``.
    options : list of dict
        Each layer's mask, positions and rotary embeddings.

    Example
    -------
    >>> Streams().before
    []
    """

    before: list = field(default_factory=list)
    options: list = field(default_factory=list)

    def run(self, layer, index, h_BQD):
        """A layer's output for another stream than its own.

        Arguments
        ---------
        layer : torch.nn.Module
            The layer.
        index : int
            Its place in `options`.
        h_BQD : torch.Tensor
            What enters it.

        Returns
        -------
        torch.Tensor
        """
        output = layer(h_BQD, **self.options[index])
        return output[0] if isinstance(output, tuple) else output


def model_inputs(model, batch):
    """A batch on the model's device, with mask and positions.

    Arguments
    ---------
    model : torch.nn.Module
        The decoder.
    batch : dict
        As in `speechbrain_ext.rules.data.RuleData`.

    Returns
    -------
    dict

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> lm = tiny_speech_llm().decoder.lm
    >>> sorted(model_inputs(lm, {"input_ids": torch.tensor([[5, 6]])}))
    ['attention_mask', 'input_ids', 'position_ids']
    """
    device = next(base_model(model).parameters()).device
    inputs = {
        name: batch[name].to(device)
        for name in INPUTS
        if batch.get(name) is not None
    }
    if "attention_mask" not in inputs:
        shape = input_of(batch).shape[:2]
        inputs["attention_mask"] = torch.ones(
            shape, dtype=torch.long, device=device
        )
    if "position_ids" not in inputs:
        inputs["position_ids"] = positions_from_mask(inputs["attention_mask"])
    return inputs


@contextlib.contextmanager
def recorded(model, change=None):
    """Keep what each layer is called with in the next pass.

    Arguments
    ---------
    model : torch.nn.Module
        The decoder.
    change : dict
        Layer index to a function of the stream that enters the layer: what
        is done to it there. Streams are kept as they were before it.

    Yields
    ------
    Streams
        Filled by the pass.

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> lm = tiny_speech_llm().decoder.lm
    >>> with recorded(lm) as streams:
    ...     _ = lm(input_ids=torch.tensor([[5, 6]]), use_cache=False)
    >>> len(streams.before)
    4
    """
    streams, change = Streams(), change or {}
    handles = [
        layer.register_forward_pre_hook(
            _keeper(streams, change.get(index)), with_kwargs=True
        )
        for index, layer in enumerate(base_model(model).layers)
    ]
    try:
        yield streams
    finally:
        for handle in handles:
            handle.remove()


def _keeper(streams, change):
    """A hook that keeps a layer's call, and changes the stream then."""

    def before(module, args, options):
        options = dict(options)
        named = "hidden_states" in options
        h_BQD = options.pop("hidden_states") if named else args[0]
        streams.before.append(h_BQD)
        streams.options.append(options)
        if change is not None:
            h_BQD = change(h_BQD)
        return (h_BQD, *args[1:]), options

    return before


def target_loss(model, h_BQD, labels_BQ):
    """Summed negative log-likelihood of the targets of a raw stream.

    The final norm and the LM head are applied at target positions only.

    Arguments
    ---------
    model : torch.nn.Module
        The decoder.
    h_BQD : torch.Tensor
        The stream behind the last layer, before the final norm.
    labels_BQ : torch.Tensor
        What each position has to predict; -100: nothing.

    Returns
    -------
    torch.Tensor
        A float64 number, in nats.

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> lm = tiny_speech_llm().decoder.lm
    >>> h_BQD, labels_BQ = torch.rand(1, 2, 32), torch.tensor([[5, -100]])
    >>> target_loss(lm, h_BQD, labels_BQ).dtype
    torch.float64
    """
    lm = causal_lm(model)
    labels_BQ = labels_BQ.to(h_BQD.device)
    wanted_BQ = labels_BQ != IGNORE
    h_ND = final_norm(lm)(h_BQD[wanted_BQ])
    total = torch.zeros((), dtype=torch.float64, device=h_BQD.device)
    parts = h_ND.split(POSITIONS), labels_BQ[wanted_BQ].split(POSITIONS)
    for h, labels in zip(*parts):
        total += torch.nn.functional.cross_entropy(
            logits_of(lm, h).float(), labels, reduction="sum"
        ).double()
    return total
