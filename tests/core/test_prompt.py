"""The prompt: one assembly, packed without holes, for training and decoding.

Authors
 * The speechbrain_ext authors, 2026
"""

import pytest
import torch
from speech_llm_fixtures import BEGIN, END, make_model
from transformers import AutoTokenizer

from speechbrain_ext.model.prompt import (
    IGNORE,
    Prompt,
    assemble,
    positions_from_mask,
)


@pytest.fixture
def tokenizer(source):
    """Tokenizer."""
    return AutoTokenizer.from_pretrained(source)


def table(width=4, size=300):
    """Table."""
    torch.manual_seed(0)
    return torch.nn.Embedding(size, width).requires_grad_(False)


def text_of(prompt, ids):
    """Text of."""
    return prompt.tokenizer.decode(ids)


def test_template_becomes_ids(tokenizer, kind):
    """Template becomes ids."""
    prompt = Prompt.from_template(tokenizer, "Hear: {speech}\nsay: {target}")
    begin = BEGIN if kind == "llama" else ""
    assert text_of(prompt, prompt.before) == f"{begin}Hear: "
    assert text_of(prompt, prompt.after) == "\nsay:"
    assert prompt.target_prefix == " "
    target = prompt.encode_target("one two")
    assert text_of(prompt, target) == f" one two{END}"
    assert target.tolist().count(tokenizer.eos_token_id) == 1
    assert prompt.decode(target) == prompt.decode(target[:-1]) == "one two"
    # Tokenised apart as together.
    whole = tokenizer("\nsay: one two", add_special_tokens=False)["input_ids"]
    assert prompt.after.tolist() + target.tolist()[:-1] == whole


def test_template_without_target_mark(tokenizer):
    """Template without target mark."""
    prompt = Prompt.from_template(tokenizer, "{speech}Say it. ")
    assert text_of(prompt, prompt.after) == "Say it. "
    assert prompt.target_prefix == ""


def test_chat_template(tokenizer):
    """Chat template."""
    prompt = Prompt.from_template(
        tokenizer, "{speech} say: {target}", chat_template=True
    )
    assert text_of(prompt, prompt.before) == "<|user|>"
    assert text_of(prompt, prompt.after) == " say:<|answer|>"
    assert len(prompt.before) == 1
    assert text_of(prompt, prompt.encode_target("one")) == f"one{END}"
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="has no chat template: use"):
        Prompt.from_template(tokenizer, "{speech}", chat_template=True)


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_first_token_stands_where_the_template_says(tokenizer, kind, side):
    """The first token stands where the template says."""
    prompt = Prompt.from_template(tokenizer, "{speech}Say it: {bos}{target}")
    target = prompt.encode_target("one")
    if kind == "llama":
        assert text_of(prompt, prompt.after) == f"Say it: {BEGIN}"
        assert text_of(prompt, target) == f"one{END}"
        # Text alone begins as ever.
        assert prompt.plain().before.tolist() == [tokenizer.bos_token_id]
    else:
        # There is none: as if the template had not asked for it.
        usual = Prompt.from_template(tokenizer, "{speech}Say it: {target}")
        assert prompt.after.tolist() == usual.after.tolist()
        assert target.tolist() == usual.encode_target("one").tolist()
        assert len(prompt.plain().before) == 0
    assert len(prompt.before) == 0
    # Never two, neither in training nor in decoding.
    embed = table()
    targets = [target] if side == "right" else None
    rows = assemble(prompt, [torch.randn(3, 4)], embed, targets, side)
    if kind == "llama":
        first = embed(torch.tensor(tokenizer.bos_token_id))
        same = (rows.embeds_BQD[0] == first).all(dim=-1)
        place = int(rows.prompt_lengths_B[0]) - 1
        assert same.nonzero().flatten().tolist() == [place]


def test_the_first_token_may_stand_in_front_or_within(tokenizer, kind):
    """The first token may stand in front or within."""
    usual = Prompt.from_template(tokenizer, "ab{speech}c{target}")
    told = Prompt.from_template(tokenizer, "{bos}ab{speech}c{target}")
    within = Prompt.from_template(tokenizer, "ab{bos}{speech}c{target}")
    assert told.before.tolist() == usual.before.tolist()
    assert sorted(within.before.tolist()) == sorted(usual.before.tolist())
    if kind == "llama":
        assert int(within.before[-1]) == tokenizer.bos_token_id


def test_a_chat_template_has_its_own_beginning(tokenizer):
    """A chat template has its own beginning."""
    prompt, usual = (
        Prompt.from_template(tokenizer, template, chat_template=True)
        for template in (
            "{speech} say: {bos}{target}",
            "{speech} say: {target}",
        )
    )
    assert prompt.after.tolist() == usual.after.tolist()


@pytest.mark.parametrize(
    "template, words",
    [
        ("say", "exactly once"),
        ("{speech}{speech}", "exactly once"),
        ("{bos}{speech}{bos}{target}", "{bos} 2 times"),
        ("{speech}{target}.", "goes on after"),
    ],
)
def test_bad_templates(tokenizer, template, words):
    """Bad templates."""
    with pytest.raises(ValueError, match=words):
        Prompt.from_template(tokenizer, template)


def test_a_tokenizer_without_end_is_refused(tokenizer):
    """A tokenizer without end is refused."""
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="set eos_token"):
        Prompt.from_template(tokenizer, "{speech}")


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_a_text_of_nothing_is_refused(tokenizer, text):
    """A text of nothing is refused."""
    prompt = Prompt.from_template(tokenizer, "{speech}{target}")
    with pytest.raises(ValueError, match="correct the transcript"):
        prompt.encode_target(text)


@pytest.mark.parametrize("side", ["right", "left"])
def test_rows_are_packed_without_holes(tokenizer, side):
    """Rows are packed without holes."""
    prompt = Prompt.from_template(tokenizer, "ab{speech}say: {target}")
    embed = table()
    speech = [torch.full((n, 4), 10.0 + n) for n in (5, 2, 1)]
    targets = [prompt.encode_target(t) for t in ("one", "two red cat", "x y")]
    seq = assemble(prompt, speech, embed, targets, side)
    before, after = embed(prompt.before), embed(prompt.after)
    width = seq.embeds_BQD.shape[1]
    assert width == max(
        len(before) + len(s) + len(after) + len(t) - 1
        for s, t in zip(speech, targets)
    )
    for row, (spoken, target) in enumerate(zip(speech, targets)):
        real = seq.mask_BQ[row].bool()
        expected = torch.cat([before, spoken, after, embed(target[:-1])])
        assert torch.equal(seq.embeds_BQD[row][real], expected)
        assert not seq.embeds_BQD[row][~real].any()
        assert seq.positions_BQ[row][real].tolist() == list(
            range(len(expected))
        )
        labels = seq.labels_BQ[row]
        assert (labels[~real] == IGNORE).all()
        # The prompt's last token predicts the target's first.
        ends = len(before) + len(spoken) + len(after)
        assert seq.prompt_lengths_B[row] == ends
        assert (labels[real][: ends - 1] == IGNORE).all()
        assert labels[real][ends - 1 :].tolist() == target.tolist()
        # Real positions stand together, at the right end of the row.
        places = real.nonzero()[:, 0]
        first = 0 if side == "right" else width - len(expected)
        assert places.tolist() == list(range(first, first + len(expected)))


def test_decoding_is_the_training_prefix(tokenizer):
    """Decoding is the training prefix."""
    prompt = Prompt.from_template(tokenizer, "ab{speech}say: {target}")
    embed = table()
    speech = [torch.randn(n, 4) for n in (3, 6)]
    targets = [prompt.encode_target(t) for t in ("one", "two red cat")]
    train = assemble(prompt, speech, embed, targets)
    decode = assemble(prompt, speech, embed, side="left")
    assert decode.labels_BQ is None
    for row in range(2):
        length = int(decode.prompt_lengths_B[row])
        assert torch.equal(
            decode.embeds_BQD[row][decode.mask_BQ[row].bool()],
            train.embeds_BQD[row][:length],
        )


def test_each_row_may_have_its_own_prompt(tokenizer):
    """Each row may have its own prompt."""
    one = Prompt.from_template(tokenizer, "{speech}one: {target}")
    two = Prompt.from_template(tokenizer, "{speech}translate this: {target}")
    embed = table()
    speech = [torch.randn(n, 4) for n in (3, 5)]
    targets = [one.encode_target("cat"), two.encode_target("red dog")]
    both = assemble([one, two], speech, embed, targets)
    for row, prompt in enumerate((one, two)):
        alone = assemble(prompt, [speech[row]], embed, [targets[row]])
        real = both.mask_BQ[row].bool()
        assert torch.equal(both.embeds_BQD[row][real], alone.embeds_BQD[0])
        assert torch.equal(both.labels_BQ[row][real], alone.labels_BQ[0])


def test_text_alone_needs_no_token_in_front(tokenizer, kind):
    """Text alone needs no token in front."""
    prompt = Prompt.from_template(tokenizer, "ab{speech}say: {target}")
    plain = prompt.plain()
    embed = table()
    nothing = [torch.zeros(0, 4)] * 2
    targets = [prompt.encode_target(t) for t in ("one two", "cat")]
    seq = assemble(plain, nothing, embed, targets)
    begin = [tokenizer.bos_token_id] if kind == "llama" else []
    for row, target in enumerate(targets):
        ids = begin + target.tolist()
        real = seq.mask_BQ[row].bool()
        assert torch.equal(
            seq.embeds_BQD[row][real], embed(torch.tensor(ids[:-1]))
        )
        assert seq.labels_BQ[row][real].tolist() == ids[1:]


def test_positions_count_real_tokens():
    """Positions count real tokens."""
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]])
    assert positions_from_mask(mask).tolist() == [[0, 0, 0, 1], [0, 1, 2, 2]]


def test_gradients_reach_the_speech_only(source):
    """Gradients reach the speech only."""
    model = make_model(source)
    speech = [torch.randn(n, 32, requires_grad=True) for n in (2, 4)]
    targets = [model.prompt.encode_target(t) for t in ("one", "two cat")]
    seq = assemble(model.prompt, speech, model.decoder.embed, targets)
    seq.embeds_BQD.sum().backward()
    assert all((s.grad == 1).all() for s in speech)
