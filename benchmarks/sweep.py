"""A sweep over pruning depths with cached features, beside none.

The encoder is frozen, so that every depth sees the same features: computed
once and kept, they take the encoder out of each further depth.
"""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from benchmarks.common import paired, row_of, script, seconds

import soundfile  # isort: skip
import speechbrain as sb
import torch

from benchmarks.evaluation import make_brain
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

SIZES = {
    "full": dict(
        layers=28,
        width=256,
        vocabulary=32_000,
        encoder_layers=12,
        encoder_width=384,
        utterances=8,
        longest=12.0,
        tokens_per_second=2,
        batch=8,
        depths=[None, Block(20, 4), Block(16, 8), Block(12, 12)],
        repeats=3,
    ),
    "tiny": dict(
        layers=5,
        width=32,
        vocabulary=300,
        encoder_layers=1,
        encoder_width=32,
        utterances=3,
        longest=2.5,
        tokens_per_second=4,
        batch=2,
        depths=[None, Block(2, 2)],
        repeats=1,
    ),
}


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
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
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


def make_set(rows, item):
    """A data set whose speech comes from one dynamic item."""
    keys = ["id", "duration", "target", item["provides"]]
    return sb.dataio.dataset.DynamicItemDataset(rows, [item], keys)


def read(file):
    """A waveform, shape ``[N]``."""
    return torch.from_numpy(soundfile.read(file, dtype="float32")[0])


def make_models(sizes, encoder):
    """A speech LLM for each depth, sharing all weights."""
    whole = random_decoder(
        sizes["layers"],
        sizes["width"],
        sizes["vocabulary"],
        words=sizes["vocabulary"],
    )
    for block in sizes["depths"]:
        decoder = Decoder(drop_layers(whole.lm, block), whole.tokenizer)
        yield speech_llm(encoder.width * JOINED, decoder, 5, encoder)


def open_cache(folder, encoder, rows, audio=None, joined=JOINED):
    """The features of some utterances, computed or not."""
    items = {
        name: (
            str((audio or folder) / Path(row["wav"]).name),
            float(row["duration"]),
        )
        for name, row in rows.items()
    }
    return FeatureCache(folder / "cache", encoder, joined, items)


def found_again(sizes):
    """All features at another k: of audio that was copied, and anew."""
    encoder = make_encoder(sizes)
    folder, rows = _audio(sizes["utterances"], sizes["longest"])

    def all_of(audio=None):
        cache = open_cache(folder, encoder, rows, audio, JOINED + 2)
        cache.compute(
            encoder, lambda name: read(rows[name]["wav"]), progress=False
        )
        return [cache[name] for name in rows]

    def copied():
        with tempfile.TemporaryDirectory() as other:
            for row in rows.values():
                shutil.copy(row["wav"], other)
            return all_of(Path(other))

    def anew():
        shutil.rmtree(folder / "cache", ignore_errors=True)
        return all_of()

    return copied, anew


def three_ways(sizes):
    """The sweep from a fresh cache, with the encoder, and without either."""
    encoder = make_encoder(sizes)
    folder, rows = _audio(sizes["utterances"], sizes["longest"])
    models = list(make_models(sizes, encoder))

    def sweep(dataset):
        return [
            make_brain(sizes, model, sizes["batch"]).decode(dataset)
            for model in models
        ]

    def features(name):
        item = {"func": name, "takes": "id", "provides": "features"}
        return make_set(rows, item)

    def opened():
        return open_cache(folder, encoder, rows)

    def build():
        cache = opened()
        cache.compute(
            encoder, lambda name: read(rows[name]["wav"]), progress=False
        )
        return cache

    def cached():
        shutil.rmtree(folder / "cache", ignore_errors=True)
        return sweep(features(build().__getitem__))

    def from_cache():
        return sweep(features(opened().__getitem__))

    def in_the_loop():
        item = {"func": read, "takes": "wav", "provides": "sig"}
        return sweep(make_set(rows, item))

    kept = {name: build()[name] for name in rows}

    def no_encoder():
        return sweep(features(kept.get))

    return cached, from_cache, in_the_loop, no_encoder


def check(sizes):
    """Every depth says the same from the cache as from memory."""
    cached, from_cache, in_the_loop, no_encoder = three_ways(sizes)
    assert cached() == no_encoder() == from_cache(), "not the same answers"
    assert len(in_the_loop()) == len(sizes["depths"])
    encoder = make_encoder(sizes)
    folder, rows = _audio(sizes["utterances"], sizes["longest"])
    cache = open_cache(folder, encoder, rows)
    for name, row in rows.items():
        wav_N = read(row["wav"])
        x_BTE, frames_B = encoder(wav_N[None], [len(wav_N)])
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
    cached, from_cache, in_the_loop, no_encoder = three_ways(sizes)
    depths = len(sizes["depths"])
    share = 1 - seconds(no_encoder) / seconds(in_the_loop)
    told = dict(
        sizes=f"{depths} depths, {sizes['utterances']} utterances up to "
        f"{sizes['longest']:.0f} s; encoder {sizes['encoder_layers']} layers, "
        f"{sizes['encoder_width']} wide; decoder {sizes['layers']} layers, "
        f"{sizes['width']} wide; the encoder's share is {share:.0%}"
    )
    yield row_of(
        f"sweep over {depths} depths, the cache made on the way; peer: the "
        "encoder in the loop",
        *paired(cached, in_the_loop, sizes["repeats"]),
        "at least 1",
        **told,
    )
    yield row_of(
        f"sweep over {depths} depths, from the cache; peer: features in "
        "memory, no encoder at all",
        *paired(from_cache, no_encoder, sizes["repeats"]),
        "at most 1.05",
        **told,
    )
    yield row_of(
        "cached features of audio that was copied elsewhere, at another k; "
        "peer: computed anew",
        *paired(*found_again(sizes), sizes["repeats"]),
        "at least 20",
        **told,
    )


if __name__ == "__main__":
    script("sweep", SIZES, check, rows)
