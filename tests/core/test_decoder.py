"""The decoder: cached greedy decoding, each row as if it were alone.

Authors
 * The speechbrain_ext authors, 2026
"""

from dataclasses import replace

import pytest
import torch
from speech_llm_fixtures import make_decoder, make_features, make_model

from speechbrain_ext.layers.removal import Block
from speechbrain_ext.layers.weights import check_source
from speechbrain_ext.model import decoding as greedy_module
from speechbrain_ext.model.decoder import Decoder
from speechbrain_ext.model.decoding import first_best
from speechbrain_ext.model.prompt import Sequence
from speechbrain_ext.model.static_decoding import StaticDecoding

SPEECH = [4, 9, 1, 6, 2, 7, 3, 5]
MANY = torch.full((len(SPEECH),), 25)


@pytest.fixture
def model(source):
    """Model."""
    return make_model(source).eval()


def left(model, sizes=SPEECH, rows=None):
    """Sequences to decode, all or some rows of one fixed batch."""
    x_BSF, tokens_B = make_features(sizes)
    if rows is not None:
        x_BSF, tokens_B = x_BSF[rows], tokens_B[rows]
    with torch.no_grad():
        return model.sequence(x_BSF, tokens_B, side="left")


@torch.no_grad()
def uncached(model, row, limit, stops):
    """Greedy decoding of one row, everything computed anew each token."""
    h_QD = left(model, rows=[row]).embeds_BQD[0]
    said = []
    while len(said) < limit:
        logits = model.decoder.lm(inputs_embeds=h_QD[None]).logits[0, -1]
        token = int(logits.argmax())
        if token in stops:
            break
        said.append(token)
        h_QD = torch.cat([h_QD, model.decoder.embed(torch.tensor([token]))])
    return said


def make_stops(model, count=2):
    """Stop ids at which some rows of the fixed batch end, and others not."""
    free = [uncached(model, r, 25, ()) for r in range(len(SPEECH))]
    # Token said late in row 0, and one early in row 3.
    stops = list(dict.fromkeys([free[0][7], free[3][2]]))[:count]
    model.decoder.lm.generation_config.eos_token_id = stops
    return free, set(model.decoder.stop_ids)


def test_greedy_is_the_uncached_greedy(model):
    """Greedy is the uncached greedy."""
    _, stops = make_stops(model)
    texts = model.decoder.greedy(left(model), MANY)
    expected = [uncached(model, r, 25, stops) for r in range(len(SPEECH))]
    assert texts == expected
    lengths = {len(text) for text in texts}
    assert len(lengths) > 2 and min(lengths) < 25


def test_greedy_is_hugging_faces_generate(model):
    """Greedy is hugging faces generate."""
    _, stops = make_stops(model)
    seq = left(model)
    texts = model.decoder.greedy(seq, MANY)
    said = model.decoder.lm.generate(
        inputs_embeds=seq.embeds_BQD,
        attention_mask=seq.mask_BQ,
        max_new_tokens=25,
        do_sample=False,
        eos_token_id=sorted(stops),
        pad_token_id=0,
    )
    for ours, row in zip(texts, said.tolist()):
        end = next((i for i, t in enumerate(row) if t in stops), len(row))
        assert ours == row[:end]


def test_a_pruned_decoder_decodes_as_uncached(source):
    """A pruned decoder decodes as uncached."""
    model = make_model(source, Block(1, 2)).eval()
    texts = model.decoder.greedy(left(model), MANY[:8])
    stops = set(model.decoder.stop_ids)
    assert texts == [uncached(model, r, 25, stops) for r in range(8)]


def test_each_row_stops_at_its_own_limit(model):
    """Each row stops at its own limit."""
    free, _ = make_stops(model, count=0)
    model.decoder.lm.generation_config.eos_token_id = None
    limits = torch.tensor([3, 25, 0, 1, 7, 25, 2, 12])
    texts = model.decoder.greedy(left(model), limits)
    end = model.decoder.tokenizer.eos_token_id
    for text, limit, row in zip(texts, limits.tolist(), free):
        row = row[:limit]
        if end in row:
            row = row[: row.index(end)]
        assert text == row
    answers = model.answer(*make_features(SPEECH), limits)
    assert [one.ids for one in answers] == texts
    hit = [one.hit_limit for one in answers]
    assert hit == [end not in r[:n] for r, n in zip(free, limits.tolist())]
    assert any(hit)
    nobody = torch.zeros(8, dtype=torch.long)
    assert model.decoder.greedy(left(model), nobody) == [[]] * 8


def test_the_batch_ends_with_its_last_row(model):
    """The batch ends with its last row."""
    _, stops = make_stops(model)
    calls = []
    lm_head = model.decoder.lm.lm_head
    lm_head.register_forward_hook(lambda m, i, o: calls.append(len(o)))
    limits = torch.full((8,), 10)
    texts = model.decoder.greedy(left(model), limits)
    longest = max(len(t) for t in texts)
    assert len(calls) <= min(longest + 1, 10)
    # Rows that ended left the batch on the way.
    assert calls[0] == 8 and calls[-1] < 8


@pytest.mark.parametrize("every", [1, 3, 100])
@pytest.mark.parametrize("share", [0.01, 0.5, 2.0])
def test_compaction_changes_nothing(model, monkeypatch, share, every):
    """Compaction changes nothing."""
    make_stops(model)
    limits = torch.tensor([25, 3, 18, 9, 25, 1, 14, 6])
    expected = model.decoder.greedy(left(model), limits)
    monkeypatch.setattr(greedy_module, "COMPACT_FROM", share)
    monkeypatch.setattr(greedy_module, "CHECK_EVERY", {"cpu": every})
    assert model.decoder.greedy(left(model), limits) == expected


def test_batch_alone_and_in_any_order(model):
    """Batch alone and in any order."""
    make_stops(model)
    limits = torch.tensor([25, 3, 18, 9, 25, 1, 14, 6])
    together = model.decoder.greedy(left(model), limits)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(2))
    shuffled = model.decoder.greedy(left(model, rows=order), limits[order])
    assert [together[i] for i in order] == shuffled
    for row in range(8):
        rows = slice(row, row + 1)
        alone = model.decoder.greedy(left(model, rows=rows), limits[rows])
        assert alone == [together[row]]


def test_ties_are_settled_alike_in_batch_and_alone(source):
    """Ties are settled alike in batch and alone."""
    model = make_model(source).eval()
    lm = model.decoder.lm
    with torch.no_grad():
        head = lm.lm_head.weight.clone()
        # Each word of the upper half has a twin in the lower half.
        half = len(head) // 2
        head[half : 2 * half] = head[:half]
        lm.lm_head.weight = torch.nn.Parameter(head, requires_grad=False)
    limits = torch.full((8,), 15)
    together = model.decoder.greedy(left(model), limits)
    assert any(len(text) == 15 for text in together)
    assert max(max(text, default=0) for text in together) < half
    for row in range(8):
        rows = slice(row, row + 1)
        alone = model.decoder.greedy(left(model, rows=rows), limits[rows])
        assert alone == [together[row]]


def test_first_best_takes_the_smallest_of_equals():
    """First best takes the smallest of equals."""
    logits = torch.tensor([[1.0, 5.0, 5.0], [-3.0, -3.0, -9.0]])
    logits[0, 2] += 5e-7  # a rounding away
    assert first_best(logits).tolist() == [1, 0]
    logits[0, 2] += 1e-3
    assert first_best(logits).tolist() == [2, 0]
    assert first_best(torch.tensor([[0.0, float("-inf")]])).tolist() == [0]


def test_sliding_windows_survive_cache_and_compaction(tmp_path):
    """Sliding windows survive cache and compaction."""
    source = make_decoder(
        "qwen2",
        tmp_path / "m",
        use_sliding_window=True,
        sliding_window=4,
        max_window_layers=2,
    )
    model = make_model(source, Block(1, 1)).eval()
    _, stops = make_stops(model)
    texts = model.decoder.greedy(left(model), MANY)
    assert texts == [uncached(model, r, 25, stops) for r in range(8)]


def test_logits_at_target_positions_only(model):
    """Logits at target positions only."""
    rows = []
    model.decoder.lm.lm_head.register_forward_hook(
        lambda m, i, o: rows.append(o.shape)
    )
    targets = [model.prompt.encode_target(t) for t in ("one", "cat dog red")]
    x_BSF, tokens_B = make_features([7, 2])
    logits, labels = model(x_BSF, tokens_B, targets)
    vocabulary = model.decoder.lm.config.vocab_size
    wanted = sum(map(len, targets))
    assert rows == [(wanted, vocabulary)]
    assert labels.tolist() == torch.cat(targets).tolist()
    # The same as the head everywhere, read where a target is predicted.
    with torch.no_grad():
        seq = model.sequence(x_BSF, tokens_B, targets)
        whole = model.decoder.lm(**seq.as_inputs()).logits
    torch.testing.assert_close(logits, whole[seq.labels_BQ != -100])


def test_loading(source):
    """Loading."""
    decoder = Decoder.from_source(source, {1, 3}, dtype="bfloat16")
    assert decoder.kept == (0, 2, 4)
    assert (decoder.num_layers, decoder.whole_layers) == (3, 5)
    assert (decoder.width, decoder.dtype) == (32, torch.bfloat16)
    assert not any(p.requires_grad for p in decoder.parameters())
    assert decoder.stop_ids == [decoder.tokenizer.eos_token_id]
    with pytest.raises(ValueError, match="none of float32"):
        Decoder.from_source(source, dtype="int8")


def test_a_tokenizer_without_padding_is_no_hindrance(source):
    """A tokenizer without padding is no hindrance."""
    decoder = Decoder.from_source(source)
    rows = len(decoder.lm.model.embed_tokens.weight)
    pad = decoder.tokenizer.pad_token_id
    assert pad is None or pad >= rows  # there is no row for it, none is made
    assert len(decoder.lm.lm_head.weight) == rows


def test_sources_that_are_none(tmp_path):
    """Sources that are none."""
    with pytest.raises(FileNotFoundError, match="not a folder"):
        check_source(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="no config.json"):
        check_source(tmp_path)


def spied_attention(monkeypatch):
    """Whether each attention was given a mask, and repeated its heads."""
    calls = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def spy(query, key, value, attn_mask=None, **kwargs):
        """Spy."""
        calls.append((attn_mask is not None, key.shape[1] == query.shape[1]))
        return attend(query, key, value, attn_mask=attn_mask, **kwargs)

    monkeypatch.setattr(
        torch.nn.functional, "scaled_dot_product_attention", spy
    )
    return calls


@pytest.mark.parametrize("side", ["right", "left"])
def test_targets_are_found_without_looking_for_them(source, side):
    """As a look through all labels finds them."""
    model = make_model(source)
    targets = [model.prompt.encode_target(t) for t in ("one", "cat dog", "red")]
    seq = model.sequence(*make_features([7, 2, 4]), targets, side)
    h_BQD = torch.randn_like(seq.embeds_BQD)
    found = seq.targets_of(h_BQD)
    expected = replace(seq, places_N=None).targets_of(h_BQD)
    assert all(map(torch.equal, found, expected))
    assert torch.equal(found[1], torch.cat(targets))


@pytest.mark.parametrize("sizes", [[7, 2, 4], [3, 3, 3]])
def test_padding_on_the_right_needs_no_mask(source, monkeypatch, sizes):
    """Padding on the right needs no mask."""
    model = make_model(source)
    targets = [model.prompt.encode_target(t) for t in ("one", "cat dog", "red")]
    x_BSF, tokens_B = make_features(sizes)
    seq = model.sequence(x_BSF, tokens_B, targets)
    assert seq.padding == "right"
    calls = spied_attention(monkeypatch)

    def loss():
        """Loss."""
        model.zero_grad()
        logits, labels = model.decoder.target_logits(
            model.sequence(x_BSF, tokens_B, targets)
        )
        loss = torch.nn.functional.cross_entropy(logits, labels)
        loss.backward()
        gradients = [p.grad for p in model.projector.parameters()]
        return [loss.detach(), *gradients]

    found = loss()
    assert set(calls) == {(False, False)}
    calls.clear()
    monkeypatch.setattr(Sequence, "causal_inputs", Sequence.as_inputs)
    expected = loss()
    assert set(calls) == {(True, True)}
    for ours, masked in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, masked, rtol=1e-5, atol=1e-6)


def test_rows_of_one_length_are_decoded_without_masks(model, monkeypatch):
    """Rows of one length are decoded without masks."""
    make_stops(model)
    sizes, limits = [4, 4, 4], torch.tensor([25, 3, 18])
    sequence = left(model, sizes)
    assert sequence.padding == "none"
    assert left(model, [4, 3]).padding == "any"
    expected = model.decoder.greedy(replace(sequence, padding="any"), limits)
    calls = spied_attention(monkeypatch)
    assert model.decoder.greedy(sequence, limits) == expected
    assert calls and {masked for masked, _ in calls} == {False}
    model.decoder.static = StaticDecoding()
    assert model.decoder.greedy(sequence, limits) == expected
