"""Evaluation of a test set of mixed lengths beside batch 1.

Upstream's speech LLM recipes score one utterance at a time. The answers of
ours do not depend on the batch, so that it may be of any size.
"""

from benchmarks.common import script, tiers, timed

import speechbrain as sb  # isort: skip
import torch

from benchmarks.models import DECODER, random_speech_llm
from speechbrain_ext.scores.words import wer
from speechbrain_ext.training.evaluation import EvaluationBrain

SIZES = tiers(
    layers=(12, 2),
    width=(256, 32),
    vocabulary=(32_000, 300),
    features=(640, 24),
    prompt=(5, 5),
    utterances=(32, 5),
    longest=(15.0, 3.0),
    tokens_per_second=(4, 4),
    batch=(16, 3),
    repeats=(2, 1),
)
# Speech tokens a second: 50 Hz frames, five joined.
RATE = 10


def random_set(sizes, answers=None):
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
    return make_set(rows, features.get)


def make_set(rows, func, takes="id", provides="features"):
    """Utterances whose speech comes from one dynamic item."""
    item = {"func": func, "takes": takes, "provides": provides}
    keys = ["id", "duration", "target", provides]
    return sb.dataio.dataset.DynamicItemDataset(rows, [item], keys)


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
    model = random_speech_llm(sizes, words=sizes["vocabulary"])
    one_by_one = make_brain(sizes, model, 1)
    said = one_by_one.decode(random_set(sizes))
    # References near the answers, so that the WER is neither 0 nor above 1.
    dataset = random_set(
        sizes, {r["id"]: spoilt(r["hypothesis"]) for r in said}
    )
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
    yield timed(
        f"evaluation of {sizes['utterances']} utterances of mixed lengths, "
        f"batch {sizes['batch']}; peer: batch 1",
        two_ways(sizes),
        sizes["repeats"],
        "at least 4",
        warm_up=False,
        sizes=f"{DECODER.format(**sizes)}, 2 to {sizes['longest']:.0f} s, "
        f"{sizes['tokens_per_second']} tokens a second",
        note="Prefill costs the same in any batch; what a batch saves is "
        "reading the weights, and starting the operations, once for each "
        "token of each row.",
    )


if __name__ == "__main__":
    script("evaluation", SIZES, check, rows)
