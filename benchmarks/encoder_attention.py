"""A WavLM on long utterances, beside the same WavLM as transformers runs it."""

from benchmarks.common import calls, peak_of, script, tiers, time_and_memory

import torch  # isort: skip

from benchmarks.models import noise, random_wavlm, wrapped

SIZES = tiers(
    layers=(2, 1),
    width=(384, 32),
    heads=(12, 2),
    channels=(128, 8),
    rows=(4, 3),
    seconds=(35, 1),
)


def model_of(sizes):
    """A random WavLM, as transformers builds it."""
    channels = (sizes["channels"],) * 7
    return random_wavlm(
        sizes["width"], sizes["layers"], sizes["heads"], conv_dim=channels
    )


def utterances(sizes):
    """One batch."""
    torch.manual_seed(1)
    return noise(sizes["rows"], sizes["seconds"], 0.8)


def ours(sizes):
    """Encodes a batch: fused attention, as many rows at once as is useful."""
    return wrapped(model_of(sizes))


def peer(sizes):
    """Encodes a batch as transformers does, all of it at once."""
    model = model_of(sizes)

    @torch.no_grad()
    def encode(wav_BN, lengths_B):
        places_N = torch.arange(wav_BN.shape[1])
        mask_BN = (places_N < lengths_B[:, None]).long()
        x_BTE = model(wav_BN, attention_mask=mask_BN).last_hidden_state
        lengths_B = model._get_feat_extract_output_lengths(lengths_B)
        real_BT = torch.arange(x_BTE.shape[1]) < lengths_B[:, None]
        return x_BTE * real_BT[..., None], lengths_B

    return encode


WAYS = {"ours": ours, "peer": peer}


def check(sizes):
    """The same features."""
    batch = utterances({**sizes, "seconds": min(sizes["seconds"], 5)})
    for one, other in zip(ours(sizes)(*batch), peer(sizes)(*batch)):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def peak(side, sizes):
    """Peak memory of encoding one batch, weights included, in MB."""
    return peak_of(
        lambda: (WAYS[side](sizes), utterances(sizes)),
        lambda prepared: prepared[0](*prepared[1]),
    )


def rows(sizes, tier):
    """Time and memory of one batch."""
    sides = {side: way(sizes) for side, way in WAYS.items()}
    yield from time_and_memory(
        "encoder_attention",
        tier,
        "encoding long utterances{}; peer: transformers",
        calls(sides, utterances(sizes)),
        3,
        ("at least 1", "at most 0.3"),
        sizes=f"WavLM of {sizes['layers']} layers, {sizes['width']} wide, "
        f"{sizes['heads']} heads; {sizes['rows']} utterances of up to "
        f"{sizes['seconds']} s",
    )


if __name__ == "__main__":
    script("encoder_attention", SIZES, check, rows)
