"""A sweep over pruning depths with cached features, beside none.

The encoder is frozen, so that every depth sees the same features: computed
once and kept, they take the encoder out of each further depth.
"""

import functools
import shutil
import tempfile
from pathlib import Path

from benchmarks.common import scratch_folder, script, seconds, tiers, timed

import soundfile  # isort: skip
import torch

from benchmarks.evaluation import make_brain, make_set
from benchmarks.models import (
    JOINED,
    SAMPLE_RATE,
    random_decoder,
    random_wavlm,
    speech_llm,
    wrapped,
)
from speechbrain_ext.data.features import FeatureCache
from speechbrain_ext.layers.removal import Block
from speechbrain_ext.layers.surgery import drop_layers
from speechbrain_ext.model.decoder import Decoder

SIZES = tiers(
    layers=(28, 5),
    width=(256, 32),
    vocabulary=(32_000, 300),
    prompt=(5, 5),
    encoder_layers=(12, 1),
    encoder_width=(384, 32),
    utterances=(8, 3),
    longest=(12.0, 2.5),
    tokens_per_second=(2, 4),
    batch=(8, 2),
    depths=(
        [None, Block(20, 4), Block(16, 8), Block(12, 12)],
        [None, Block(2, 2)],
    ),
    repeats=(3, 1),
)


def make_encoder(sizes):
    """A random WavLM with few convolutions."""
    width = sizes["encoder_width"]
    wavlm = random_wavlm(
        width,
        sizes["encoder_layers"],
        max(width // 64, 1),
        conv_dim=(160, 128),
        conv_kernel=(400, 3),
        conv_stride=(160, 2),
    )
    return wrapped(wavlm)


@functools.cache
def _audio(utterances, longest):
    """Folder of noise in WAV files, and the files by their names."""
    folder = Path(scratch_folder())
    random = torch.Generator().manual_seed(7)
    rows = {}
    for index in range(utterances):
        share = torch.rand((), generator=random).item()
        samples = int((1.0 + share * (longest - 1.0)) * SAMPLE_RATE)
        file = str(folder / f"u{index:02d}.wav")
        wav_N = 0.1 * torch.randn(samples, generator=random)
        soundfile.write(file, wav_N.numpy(), SAMPLE_RATE)
        rows[f"u{index:02d}"] = {
            "wav": file,
            "duration": samples / SAMPLE_RATE,
            "target": "w5",
        }
    return folder, rows


def read(file):
    """A waveform, shape ``[N]``."""
    return torch.from_numpy(soundfile.read(file, dtype="float32")[0])


def make_models(sizes, encoder):
    """A speech LLM for each depth, sharing all weights."""
    whole = random_decoder(sizes, words=sizes["vocabulary"])
    for block in sizes["depths"]:
        decoder = Decoder(drop_layers(whole.lm, block), whole.tokenizer)
        features = encoder.width * JOINED
        yield speech_llm(features, decoder, sizes["prompt"], encoder)


class Cached:
    """Utterances of some sizes, and their features in a cache beside them."""

    def __init__(self, sizes):
        self.encoder = make_encoder(sizes)
        self.folder, self.rows = _audio(sizes["utterances"], sizes["longest"])

    def open(self, audio=None, joined=JOINED):
        """The features, computed or not, of audio that may have moved."""
        audio = audio or self.folder
        items = {
            name: (str(audio / Path(row["wav"]).name), float(row["duration"]))
            for name, row in self.rows.items()
        }
        return FeatureCache(self.folder / "cache", self.encoder, joined, items)

    def build(self, **how):
        """The features, those computed that are not there."""
        cache = self.open(**how)
        cache.compute(
            self.encoder,
            lambda name: read(self.rows[name]["wav"]),
            progress=False,
        )
        return cache

    def clear(self):
        """Forget what was computed."""
        shutil.rmtree(self.folder / "cache", ignore_errors=True)


def found_again(sizes):
    """All features at another k: of audio that was copied, and anew."""
    cached = Cached(sizes)

    def all_of(audio=None):
        cache = cached.build(audio=audio, joined=JOINED + 2)
        return [cache[name] for name in cached.rows]

    def copied():
        with tempfile.TemporaryDirectory() as other:
            for row in cached.rows.values():
                shutil.copy(row["wav"], other)
            return all_of(Path(other))

    def anew():
        cached.clear()
        return all_of()

    return copied, anew


def ways(sizes):
    """The sweep from a fresh cache, with the encoder, and without either."""
    cached = Cached(sizes)
    models = list(make_models(sizes, cached.encoder))

    def sweep(*item):
        dataset = make_set(cached.rows, *item)
        return [
            make_brain(sizes, model, sizes["batch"]).decode(dataset)
            for model in models
        ]

    def fresh():
        cached.clear()
        return sweep(cached.build().__getitem__)

    kept = {name: cached.build()[name] for name in cached.rows}
    return (
        fresh,
        lambda: sweep(cached.open().__getitem__),
        lambda: sweep(read, "wav", "sig"),
        lambda: sweep(kept.get),
    )


def check(sizes):
    """Every depth says the same from the cache as from memory."""
    fresh, from_cache, in_the_loop, no_encoder = ways(sizes)
    assert fresh() == no_encoder() == from_cache(), "not the same answers"
    assert len(in_the_loop()) == len(sizes["depths"])
    cached = Cached(sizes)
    cache = cached.open()
    for name, row in cached.rows.items():
        wav_N = read(row["wav"])
        x_BTE, frames_B = cached.encoder(wav_N[None], [len(wav_N)])
        tokens = -(-int(frames_B) // JOINED)
        x_TE = torch.nn.functional.pad(
            x_BTE[0], (0, 0, 0, tokens * JOINED - len(x_BTE[0]))
        )
        torch.testing.assert_close(
            cache[name], x_TE.view(tokens, -1), rtol=1e-4, atol=1e-4
        )
    copied, anew = found_again(sizes)
    for one, other in zip(anew(), copied()):
        assert torch.equal(one, other), "not the same features"


def rows(sizes, tier):
    """The sweep's time, and what is left of the encoder in it."""
    fresh, from_cache, in_the_loop, no_encoder = ways(sizes)
    depths = len(sizes["depths"])
    share = 1 - seconds(no_encoder) / seconds(in_the_loop)
    told = (
        f"{depths} depths, {sizes['utterances']} utterances up to "
        f"{sizes['longest']:.0f} s; encoder {sizes['encoder_layers']} layers, "
        f"{sizes['encoder_width']} wide; decoder {sizes['layers']} layers, "
        f"{sizes['width']} wide; the encoder's share is {share:.0%}"
    )
    for name, sides, target in (
        (
            f"sweep over {depths} depths, the cache made on the way; peer: the "
            "encoder in the loop",
            (fresh, in_the_loop),
            "at least 1",
        ),
        (
            f"sweep over {depths} depths, from the cache; peer: features in "
            "memory, no encoder at all",
            (from_cache, no_encoder),
            "at most 1.05",
        ),
        (
            "cached features of audio that was copied elsewhere, at another k; "
            "peer: computed anew",
            found_again(sizes),
            "at least 20",
        ),
    ):
        yield timed(name, sides, sizes["repeats"], target, sizes=told)


if __name__ == "__main__":
    script("sweep", SIZES, check, rows)
