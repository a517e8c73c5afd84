"""Evaluation of a test set of mixed lengths beside batch 1.

Upstream's speech LLM recipes score one utterance at a time. The answers of
ours do not depend on the batch, so that it may be of any size.
"""

from benchmarks.common import paired, row_of, script

import speechbrain as sb  # isort: skip
import torch

from benchmarks.models import random_decoder, speech_llm
from speechbrain_ext.scores.words import wer
from speechbrain_ext.training.evaluation import EvaluationBrain

SIZES = {
    "full": dict(
        layers=12,
        width=256,
        vocabulary=32_000,
        features=640,
        utterances=32,
        longest=15.0,
        tokens_per_second=4,
        batch=16,
        repeats=2,
    ),
    "tiny": dict(
        layers=2,
        width=32,
        vocabulary=300,
        features=24,
        utterances=5,
        longest=3.0,
        tokens_per_second=4,
        batch=3,
        repeats=1,
    ),
}
# Speech tokens a second: 50 Hz frames, five joined.
RATE = 10


def make_set(sizes, answers=None):
    """Utterances of 2 s to the longest, with features of random numbers."""
    random = torch.Generator().manual_seed(5)
    rows, features = {}, {}
    for index in range(sizes["utterances"]):
        share = torch.rand((), generator=random).item()
        duration = 2.0 + share * (sizes["longest"] - 2.0)
        name = f"u{index:02d}"
        rows[name] = {
            "duration": duration,
            "target": answers[name] if answers else "w5",
        }
        shape = int(duration * RATE), sizes["features"]
        features[name] = torch.randn(shape, generator=random)
    items = [{"func": features.get, "takes": "id", "provides": "features"}]
    keys = ["id", "duration", "target", "features"]
    return sb.dataio.dataset.DynamicItemDataset(rows, items, keys)


def make_model(sizes):
    """A random speech LLM."""
    decoder = random_decoder(
        sizes["layers"],
        sizes["width"],
        sizes["vocabulary"],
        words=sizes["vocabulary"],
    )
    return speech_llm(sizes["features"], decoder, 5)


def make_brain(sizes, model, batch):
    """A Brain that evaluates in batches of a size."""
    hparams = dict(
        test_batch_size=batch,
        max_new_tokens=100,
        max_tokens_per_second=sizes["tokens_per_second"],
        num_workers=0,
        noprogressbar=True,
    )
    return EvaluationBrain(model, hparams, {"device": "cpu"})


def two_ways(sizes):
    """Ours in batches, the peer one by one, on a set with references."""
    model = make_model(sizes)
    one_by_one = make_brain(sizes, model, 1)
    said = one_by_one.decode(make_set(sizes))
    # References near the answers, so that the WER is neither 0 nor above 1.
    dataset = make_set(sizes, {r["id"]: spoilt(r["hypothesis"]) for r in said})
    batched = make_brain(sizes, model, sizes["batch"])
    return lambda: batched.decode(dataset), lambda: one_by_one.decode(dataset)


def spoilt(text):
    """Every seventh word another one (str)."""
    words = text.split() or ["w5"]
    return " ".join(
        "w6" if place % 7 == 3 else word for place, word in enumerate(words)
    )


def score(rows):
    """Word error rate of rows, in per cent (float)."""
    return wer([(row["reference"], row["hypothesis"]) for row in rows])


def check(sizes):
    """The same answers and the same WER, and not a trivial one."""
    ours, peer = (way() for way in two_ways(sizes))
    assert ours == peer, "not the same answers"
    assert score(ours) == score(peer)
    assert 0 < score(ours) < 100, score(ours)
    assert len({len(row["hypothesis"].split()) for row in ours}) > 2


def rows(sizes, tier):
    """One row."""
    ours, peer = two_ways(sizes)
    yield row_of(
        f"evaluation of {sizes['utterances']} utterances of mixed lengths, "
        f"batch {sizes['batch']}; peer: batch 1",
        *paired(ours, peer, sizes["repeats"], warm_up=False),
        "at least 4",
        sizes=f"{sizes['layers']} layers, {sizes['width']} wide, vocabulary "
        f"{sizes['vocabulary']:,}, 2 to {sizes['longest']:.0f} s, "
        f"{sizes['tokens_per_second']} tokens a second",
        note="Prefill costs the same in any batch; what a batch saves is "
        "reading the weights, and starting the operations, once for each "
        "token of each row.",
    )


if __name__ == "__main__":
    script("evaluation", SIZES, check, rows)
