"""The speech LLM: a batch means what its utterances mean alone.

Authors
 * The speechbrain_ext authors, 2026
"""

import functools

import pytest
import torch
from speech_llm_fixtures import make_features, make_model

from speechbrain_ext.healing import heal
from speechbrain_ext.healing.apply import train_parts
from speechbrain_ext.layers.removal import Block
from speechbrain_ext.model.answers import answer_limits
from speechbrain_ext.model.encoder import SpeechEncoder
from speechbrain_ext.model.speech_llm import Projector

SAMPLES = [9000, 4100, 16000, 5300, 12345, 7000, 15999, 4000]
TEXTS = ["one", "two red cat", "x", "green dog", "five", "six seven", "z", "y"]


def waveforms(order=range(8)):
    """Eight waveforms of mixed lengths, padded with garbage."""
    torch.manual_seed(0)
    rows = [torch.randn(n) * 0.3 for n in SAMPLES]
    rows = [rows[i] for i in order]
    lengths = torch.tensor([len(row) for row in rows])
    wav_BN = torch.full((len(rows), int(lengths.max())), 7.0)
    for out, row in zip(wav_BN, rows):
        out[: len(row)] = row
    return wav_BN, lengths


@pytest.fixture(scope="module")
def encoders(encoder_folders):
    """Encoders."""

    @functools.cache
    def encoder_of(kind):
        """One of a kind."""
        if kind == "whisper":
            pytest.importorskip("speechbrain_ext.model.whisper_core")
        return SpeechEncoder.from_source(encoder_folders[kind])

    return encoder_of


@pytest.fixture(params=["wavlm", "whisper"])
def model(request, source, encoders):
    """Model."""
    encoder = encoders(request.param)
    return make_model(source, encoder=encoder, markers=True).eval()


@torch.no_grad()
def everything(model, order, side="right"):
    """Features, logits of each row, loss of each row and decoded texts."""
    x_BSF, tokens_B = model.features(*waveforms(order))
    targets = [model.prompt.encode_target(TEXTS[i]) for i in order]
    seq = model.sequence(x_BSF, tokens_B, targets, side)
    logits_NV, labels_N = model.decoder.target_logits(seq)
    sizes = [len(t) for t in targets]
    loss_N = torch.nn.functional.cross_entropy(
        logits_NV, labels_N, reduction="none"
    )
    limits = torch.full((len(order),), 12)
    return (
        [x[:n] for x, n in zip(x_BSF, tokens_B.tolist())],
        logits_NV.split(sizes),
        [part.sum() for part in loss_N.split(sizes)],
        model.transcribe(x_BSF, tokens_B, limits),
    )


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_batch_of_8_is_8_batches_of_1(model, side):
    """A batch of 8 is 8 batches of 1."""
    order = [3, 0, 7, 6, 1, 2, 5, 4]
    alone = [everything(model, [i], side) for i in range(8)]
    together = everything(model, list(range(8)), side)
    shuffled = everything(model, order, side)
    for row in range(8):
        for batch, place in ((together, row), (shuffled, order.index(row))):
            for part in range(3):
                torch.testing.assert_close(
                    batch[part][place],
                    alone[row][part][0],
                    rtol=1e-5,
                    atol=1e-5,
                )
            assert batch[3][place] == alone[row][3][0]
    assert len(set(together[3])) > 2


def test_padding_sides_agree(model):
    """Padding sides agree."""
    right = everything(model, list(range(8)), "right")
    left = everything(model, list(range(8)), "left")
    for a, b in zip(right[1], left[1]):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_features_beyond_an_utterance_do_not_matter(source):
    """Features beyond an utterance do not matter."""
    model = make_model(source).eval()
    x_BSF, tokens_B = make_features([5, 2])
    target = [model.prompt.encode_target("one")] * 2
    with torch.no_grad():
        before, _ = model(x_BSF, tokens_B, target)
        x_BSF[1, 2:] = 1e3
        after, _ = model(x_BSF, tokens_B, target)
    assert torch.equal(before, after)


def test_a_frozen_encoder_stays_in_eval_mode(source, encoders):
    """A frozen encoder stays in eval mode."""
    model = make_model(source, encoder=encoders("wavlm"))
    assert model.train().training and model.projector.training
    assert not any(m.training for m in model.encoder.modules())
    wav_BN, lengths = waveforms()
    first, _ = model.features(wav_BN, lengths)
    again, _ = model.features(wav_BN, lengths)
    assert torch.equal(first, again) and not first.requires_grad


def test_the_projector_ends_without_an_activation():
    """The projector ends without an activation."""
    torch.manual_seed(0)
    out = Projector(12, 8)(torch.randn(2, 30, 12))
    assert out.shape == (2, 30, 8) and (out < 0).any()
    kinds = [type(m).__name__ for m in Projector(12, 8, 5).layers]
    assert kinds == ["Linear", "GELU", "Linear"]
    assert Projector(12, 8, 5).layers[0].out_features == 5


def loss_and_gradients(model, trainable):
    """Loss and gradients."""
    model.train()
    x_BSF, tokens_B = make_features([6, 3, 5])
    targets = [model.prompt.encode_target(t) for t in TEXTS[:3]]
    logits, labels = model(x_BSF, tokens_B, targets)
    loss = torch.nn.functional.cross_entropy(logits, labels)
    loss.backward()
    return loss, {name: p.grad for name, p in trainable.named()}


@pytest.mark.parametrize("strategy", ["projector", "decoder", "both"])
def test_gradient_checkpointing_changes_nothing(source, strategy):
    """Gradient checkpointing changes nothing."""
    results = []
    for checkpointing in (False, True):
        model = make_model(
            source, Block(1, 2), gradient_checkpointing=checkpointing
        )
        torch.manual_seed(0)
        trainable = heal(model, Block(1, 2), strategy, verbose=False)
        # LoRA starts at zero: give its gradients something to say.
        for _, p in trainable.named():
            p.data += 0.02 * torch.randn_like(p)
        torch.manual_seed(1)
        calls = []
        layer = model.decoder.lm.model.layers[1]
        layer.mlp.register_forward_pre_hook(lambda *a: calls.append(1))
        results.append(loss_and_gradients(model, trainable))
        # The layer really is computed again on the way back.
        assert len(calls) == 1 + checkpointing
    (loss, grads), (again, grads_again) = results
    torch.testing.assert_close(loss, again)
    assert grads.keys() == grads_again.keys()
    for name in grads:
        torch.testing.assert_close(grads[name], grads_again[name])
        assert grads[name].abs().max() > 0


def test_speech_markers_are_trained_and_stand_around_the_speech(source):
    """Speech markers are trained and stand around the speech."""
    model = make_model(source, markers=True)
    trainable = train_parts(model, projector=True, verbose=False)
    names = {name for name, _ in trainable.named()}
    assert {"markers.start", "markers.end"} <= names
    x_BSF, tokens_B = make_features([4, 2])
    rows = model.speech_embeddings(x_BSF, tokens_B)
    assert [len(row) for row in rows] == [6, 4]
    for row in rows:
        assert torch.equal(row[0], model.markers.start)
        assert torch.equal(row[-1], model.markers.end)
    loss_and_gradients(model, trainable)
    assert model.markers.start.grad.abs().sum() > 0
    assert model.markers.end.grad.abs().sum() > 0


def test_half_precision_features_are_taken(source):
    """Half precision features are taken."""
    model = make_model(source).eval()
    x_BSF, tokens_B = make_features([4, 2])
    target = [model.prompt.encode_target("one")] * 2
    with torch.no_grad():
        a, _ = model(x_BSF.half(), tokens_B, target)
        b, _ = model(x_BSF.half().float(), tokens_B, target)
    assert torch.equal(a, b)


def test_an_answer_has_text_ids_and_limit_and_comes_token_by_token(model):
    """An answer has text ids and limit and comes token by token."""
    wav_BN, lengths_B = waveforms()
    x_BSF, tokens_B = model.features(wav_BN, lengths_B)
    later = pytest.importorskip("speechbrain_ext.model.answer_ids")
    limits_B = torch.tensor([3, 12, 1, 7, 5, 12, 2, 4])
    answers = model.answer(x_BSF, tokens_B, limits_B)
    speech = model.speech_embeddings(x_BSF, tokens_B)
    for said, spoken_SD, limit in zip(answers, speech, limits_B.tolist()):
        ids = list(
            later.answer_ids(model.decoder, model.prompt, spoken_SD, limit)
        )
        text, hit_limit = model.prompt.decode(ids), len(ids) == limit
        assert said == (text, ids, hit_limit, True)
    texts = model.transcribe(x_BSF, tokens_B, limits_B)
    assert texts == [said.text for said in answers]


def test_features_of_waveforms_are_those_of_the_padded_batch(model):
    """Features of waveforms are those of the padded batch."""
    wav_BN, lengths_B = waveforms()
    wavs = [wav_N[:n] for wav_N, n in zip(wav_BN, lengths_B.tolist())]
    x_BSF, tokens_B = model.features_of(wavs)
    theirs_BSF, their_tokens_B = model.features(wav_BN, lengths_B)
    assert torch.equal(tokens_B, their_tokens_B)
    torch.testing.assert_close(x_BSF, theirs_BSF)


def test_limits_grow_with_the_speech_between_a_floor_and_a_ceiling():
    """Limits grow with the speech between a floor and a ceiling."""
    assert answer_limits([0.1, 2.0, 2.01, 99], 6.0, 50).tolist() == [
        8,
        12,
        13,
        50,
    ]
    assert answer_limits([0.1, 9.0], 6.0, 5).tolist() == [5, 5]
