"""A map that becomes part of the layer before the gap.

The map acts on that layer's MLP output, m -> m + W m. The last thing that
makes m is a matrix, so both are one matrix, and the pruned decoder stays a
plain one without anything beside it. There is no bias: the decoders' MLPs
have none to put it into.

Authors
 * The speechbrain_ext authors, 2026
"""

import torch
from safetensors.torch import load_file, save_file

from speechbrain_ext.pruning import decoder_layers


@torch.no_grad()
def folded_weights(down_proj, weight_DD):
    """Weight and bias of an MLP's last matrix with a map behind it.

    Arguments
    ---------
    down_proj : torch.nn.Linear
        The matrix; is left as it is.
    weight_DD : torch.Tensor
        W.

    Returns
    -------
    weight : torch.Tensor
        ``(I + W) down``, computed in float64, in the matrix's type.
    bias : torch.Tensor or None
        The same of its bias, where it has one.

    Example
    -------
    >>> down_proj = torch.nn.Linear(3, 2, bias=False)
    >>> twice, _ = folded_weights(down_proj, torch.eye(2))
    >>> torch.equal(twice, 2 * down_proj.weight)
    True
    """
    old = down_proj.weight
    step_DD = weight_DD.to(old.device, torch.float64)

    def folded(value):
        value = value.double()
        return (value + step_DD @ value).to(old.dtype)

    bias = down_proj.bias
    return folded(old), None if bias is None else folded(bias)


def put_down_proj(layer, weight, bias=None):
    """Exchange the last matrix of a layer's MLP.

    New parameters, not new values: a whole model may share the old ones.

    Arguments
    ---------
    layer : torch.nn.Module
        A decoder layer.
    weight : torch.Tensor
        The new matrix.
    bias : torch.Tensor or None
        The new bias, where there is one.

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> layer = tiny_speech_llm().decoder.lm.model.layers[0]
    >>> put_down_proj(layer, 2 * layer.mlp.down_proj.weight.detach())
    """
    down_proj = layer.mlp.down_proj
    down_proj.weight = torch.nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        down_proj.bias = torch.nn.Parameter(bias, requires_grad=False)


def fold_maps(decoder, weights):
    """Fold maps into a decoder's layers, in place.

    Arguments
    ---------
    decoder : speechbrain_ext.decoder.Decoder
        Without adapters; notes what was folded, for `save_folds`.
    weights : dict
        Index of the receiving layer to W of shape ``[D, D]``.

    Raises
    ------
    ValueError
        If the receiving layer is the first one.

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> decoder = tiny_speech_llm(removed=[1]).decoder
    >>> fold_maps(decoder, {1: torch.zeros(32, 32)})
    >>> sorted(decoder.folded)
    [1]
    """
    check_layer_before(weights)
    layers = decoder_layers(decoder)
    for index, weight_DD in weights.items():
        weight_DD = weight_DD.detach().float().cpu().contiguous()
        layer = layers[index - 1]
        put_down_proj(layer, *folded_weights(layer.mlp.down_proj, weight_DD))
        decoder.folded[index] = weight_DD


def check_layer_before(receivers):
    """Refuse a receiving layer that has no layer before it.

    Arguments
    ---------
    receivers : iterable of int
        Layer indices in the pruned decoder.

    Raises
    ------
    ValueError
        If the first layer is among them.

    Example
    -------
    >>> check_layer_before([1, 3])
    """
    if 0 in receivers:
        raise ValueError(
            "healing: the first layers were removed, so that there is no "
            "layer before the gap to fold a map into: keep layer 0, or choose "
            "bridge form: fixed"
        )


def save_folds(decoder, path):
    """Write what was folded as safetensors: ``<receiving layer>.weight``.

    Arguments
    ---------
    decoder : speechbrain_ext.decoder.Decoder
        With folded maps.
    path : str
        The file.

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> decoder, other = (tiny_speech_llm().decoder for _ in range(2))
    >>> fold_maps(decoder, {1: torch.rand(32, 32)})
    >>> path = str(getfixture("tmpdir").join("folded.safetensors"))
    >>> save_folds(decoder, path)
    >>> load_folds(other, path)
    >>> torch.equal(other.folded[1], decoder.folded[1])
    True
    """
    save_file(
        {f"{index}.weight": value for index, value in decoder.folded.items()},
        path,
    )


def load_folds(decoder, path):
    """Fold saved maps into a decoder, in place.

    Arguments
    ---------
    decoder : speechbrain_ext.decoder.Decoder
        The pruned decoder as it was when they were fitted.
    path : str
        As `save_folds` wrote it.

    Example
    -------
    See `save_folds`.
    """
    weights = load_file(path)
    fold_maps(decoder, {int(k.split(".")[0]): v for k, v in weights.items()})
