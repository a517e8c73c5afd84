"""What an encoder is, as hashes: the same files elsewhere are the same.

Authors
 * The speechbrain_ext authors, 2026
"""

import hashlib
import json

import torch

# What a configuration says of its file, not of the model.
NOT_THE_MODEL = ("transformers_version", "_name_or_path", "dtype")


def weights_hash(module):
    """Hash of a module's weights: names, shapes and content.

    Arguments
    ---------
    module : torch.nn.Module
        Whose.

    Returns
    -------
    str
        32 hexadecimal digits.

    Example
    -------
    >>> layer = torch.nn.Linear(1, 1)
    >>> before = weights_hash(layer)
    >>> _ = layer.bias.data.add_(1)
    >>> weights_hash(layer) == before
    False
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()


def config_hash(config):
    """Hash of a configuration, without where it came from.

    Arguments
    ---------
    config : transformers.PreTrainedConfig
        Which.

    Returns
    -------
    str
        16 hexadecimal digits.

    Example
    -------
    >>> from transformers import WavLMConfig
    >>> one, other = WavLMConfig(), WavLMConfig(name_or_path="elsewhere")
    >>> config_hash(one) == config_hash(other)
    True
    """
    config = config.to_diff_dict()
    for key in NOT_THE_MODEL:
        config.pop(key, None)
    config = json.dumps(config, sort_keys=True, default=str)
    return hashlib.sha256(config.encode()).hexdigest()[:16]
