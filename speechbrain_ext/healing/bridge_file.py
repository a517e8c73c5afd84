"""Bridges to and from their file.

Authors
 * The speechbrain_ext authors, 2026
"""

from safetensors.torch import load_file, save_file

from speechbrain_ext.healing.adapters import ADAPTER
from speechbrain_ext.healing.bridge import (
    FULL,
    Bridge,
    bridges_of,
    put_bridge,
)
from speechbrain_ext.pruning import decoder_layers


def save_bridges(decoder, path, name=ADAPTER):
    """Write the bridges of one name as safetensors: ``<layer>.<part>``.

    Arguments
    ---------
    decoder : torch.nn.Module
        With bridges.
    path : str
        The file.
    name : str
        What they are called.

    Example
    -------
    >>> from speechbrain_ext.healing.bridge import add_bridges
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> decoder, other = (tiny_speech_llm().decoder for _ in range(2))
    >>> add_bridges(decoder, [2], rank=3)
    >>> path = str(getfixture("tmpdir").join("bridge.safetensors"))
    >>> save_bridges(decoder, path)
    >>> load_bridges(other, path)
    >>> bridges_of(other)[2].up.shape
    torch.Size([32, 3])
    """
    state = {
        f"{index}.{part}": value.detach().cpu().contiguous()
        for index, bridge in bridges_of(decoder, name).items()
        for part, value in bridge.state_dict().items()
    }
    save_file(state, path)


def load_bridges(decoder, path, name=ADAPTER):
    """Put saved bridges back.

    Arguments
    ---------
    decoder : torch.nn.Module
        Gets them, in place: ours, or a causal LM of the Llama kind.
    path : str
        As `save_bridges` wrote it.
    name : str
        What they are called from now on.

    Raises
    ------
    ValueError
        If they do not fit this decoder.

    Example
    -------
    See `save_bridges`.
    """
    layers, states = decoder_layers(decoder), {}
    for key, value in load_file(path).items():
        index, _, part = key.partition(".")
        states.setdefault(int(index), {})[part] = value
    for index, state in states.items():
        width = len(layers[0].input_layernorm.weight)
        rank = state["up"].shape[1] if "up" in state else FULL
        bridge = Bridge(width, rank)
        wanted = {k: v.shape for k, v in bridge.state_dict().items()}
        given = {k: v.shape for k, v in state.items()}
        if index >= len(layers) or given != wanted:
            raise ValueError(
                f"{path}: the bridge of layer {index} has the shapes {given}; "
                f"this decoder has {len(layers)} layers of width {width}. It "
                "was made for another model."
            )
        bridge.load_state_dict(state)
        device = layers[index].input_layernorm.weight.device
        bridge.requires_grad_(False).to(device).eval()
        put_bridge(layers[index], bridge, name)
