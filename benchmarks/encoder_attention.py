"""A WavLM on long utterances, beside the same WavLM as transformers runs it."""

from benchmarks.common import paired, peak_of, peaks, row_of, script

import torch  # isort: skip
from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMModel

from speechbrain_ext.encoder import SpeechEncoder
from speechbrain_ext.encoder_cores import WaveformCore

SIZES = {
    "full": dict(
        layers=2, width=384, heads=12, channels=128, rows=4, seconds=35
    ),
    "tiny": dict(layers=1, width=32, heads=2, channels=8, rows=3, seconds=1),
}
SAMPLE_RATE = 16_000


def model_of(sizes):
    """A random WavLM, as transformers builds it."""
    torch.manual_seed(0)
    width = sizes["width"]
    config = WavLMConfig(
        hidden_size=width,
        num_hidden_layers=sizes["layers"],
        num_attention_heads=sizes["heads"],
        intermediate_size=4 * width,
        conv_dim=(sizes["channels"],) * 7,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
    )
    return WavLMModel(config).eval().requires_grad_(False)


def utterances(sizes):
    """Noise of mixed lengths: waveforms and samples of each."""
    torch.manual_seed(1)
    longest = sizes["seconds"] * SAMPLE_RATE
    shares_B = torch.linspace(0.8, 1, sizes["rows"])
    wav_BN = 0.1 * torch.randn(sizes["rows"], longest)
    return wav_BN, (shares_B * longest).long()


def ours(sizes):
    """Encodes a batch: fused attention, as many rows at once as is useful."""
    core = WaveformCore(model_of(sizes), Wav2Vec2FeatureExtractor())
    return SpeechEncoder(core, "random", "wavlm")


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
    goal = tier == "full"
    told = dict(
        sizes=f"WavLM of {sizes['layers']} layers, {sizes['width']} wide, "
        f"{sizes['heads']} heads; {sizes['rows']} utterances of up to "
        f"{sizes['seconds']} s"
    )
    sides = [WAYS[side](sizes) for side in ("ours", "peer")]
    batch = utterances(sizes)
    yield row_of(
        "encoding long utterances; peer: transformers",
        *paired(*(lambda side=side: side(*batch) for side in sides), 3),
        "at least 1" if goal else "",
        **told,
    )
    yield row_of(
        "encoding long utterances, peak memory; peer: transformers",
        *peaks("encoder_attention", ("ours", "peer"), tier),
        "at most 0.3" if goal else "",
        unit="MB",
        **told,
    )


if __name__ == "__main__":
    script("encoder_attention", SIZES, check, rows)
