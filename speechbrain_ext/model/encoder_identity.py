"""What decides an encoder's features, wherever its files lie."""

from __future__ import annotations

import hashlib
import json

import torch

# What a configuration says of its file, not of the model.
NOT_THE_MODEL = ("transformers_version", "_name_or_path", "dtype")


def identity_of(encoder) -> dict:
    """Weights, configuration and options of a `SpeechEncoder`.

    Not the source's name: the same encoder in another folder gives the same
    features.
    """
    if not hasattr(encoder, "weights_hash"):
        encoder.weights_hash = fingerprint(encoder.core)
    return {
        "kind": encoder.kind,
        "weights": encoder.weights_hash,
        "config": _config_hash(encoder.core.model.config),
        "dtype": str(encoder.dtype).removeprefix("torch."),
        "preprocessing": encoder.core.preprocessing,
        "normalise_input": encoder.normalise_input,
        "output_norm": encoder.output_norm,
        "long_audio": encoder.long_audio,
        "max_samples": encoder.max_samples,
        "own_window": encoder.core.own,
    }


def fingerprint(module: torch.nn.Module) -> str:
    """Hash of a frozen module's weights: names, shapes and content."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()


def _config_hash(config):
    """Hash of a configuration, without where it came from."""
    config = config.to_diff_dict()
    for key in NOT_THE_MODEL:
        config.pop(key, None)
    config = json.dumps(config, sort_keys=True, default=str)
    return hashlib.sha256(config.encode()).hexdigest()[:16]
