"""The distance table against a naive reference in float64.

Authors
 * The speechbrain_ext authors, 2026
"""

import json

import numpy as np
import pytest
import torch
from speech_llm_fixtures import LAYERS, PROMPT
from transformers import AutoModelForCausalLM, AutoTokenizer

from speechbrain_ext.layers.distances import RedundancyTable, measure
from speechbrain_ext.layers.removal import Block
from speechbrain_ext.model.decoder import Decoder
from speechbrain_ext.model.prompt import Prompt
from speechbrain_ext.training.choose_layers import measure_text, read_path

LENGTHS = [9, 4, 1, 12, 7, 3]
PROMPTED = [5, 2, 1, 11, 1, 3]


@pytest.fixture
def model(source):
    """Model."""
    return AutoModelForCausalLM.from_pretrained(source).eval()


@pytest.fixture(scope="module")
def rows():
    """Rows."""
    torch.manual_seed(0)
    return [torch.randint(5, 200, (n,)) for n in LENGTHS]


def make_batch(rows, prompted, side="right"):
    """Make batch."""
    ids = torch.nn.utils.rnn.pad_sequence(
        rows, batch_first=True, padding_value=7, padding_side=side
    )
    mask = torch.nn.utils.rnn.pad_sequence(
        [torch.ones_like(r) for r in rows], batch_first=True, padding_side=side
    )
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "prompt_lengths": torch.tensor(prompted),
    }


@torch.no_grad()
def naive(model, rows, places):
    """Distances of each sequence, one by one: ``[N, L + 1, L + 1]``."""
    model = model.double()
    tables = []
    for ids, place in zip(rows, places):
        streams = [model.model.embed_tokens(ids)[place].numpy()]
        handles = [
            layer.register_forward_hook(
                lambda m, i, o: streams.append(
                    (o[0] if isinstance(o, tuple) else o)[0, place].numpy()
                )
            )
            for layer in model.model.layers
        ]
        model(ids[None])
        for handle in handles:
            handle.remove()
        table = np.zeros((len(streams), len(streams)))
        for a, x in enumerate(streams):
            for b, y in enumerate(streams):
                cosine = x @ y / np.sqrt(x @ x * (y @ y))
                table[a, b] = np.arccos(np.clip(cosine, -1, 1)) / np.pi
        tables.append(table)
    return np.array(tables)


def expect(table, each):
    """Expect."""
    mean = each.mean(0)
    error = each.std(0, ddof=1) / np.sqrt(len(each))
    assert table.distances.shape == (LAYERS, LAYERS)
    assert table.distances.dtype == np.float64
    assert table.count == len(each)
    for size in range(1, LAYERS + 1):
        for start in range(LAYERS):
            ours = table.distances[size - 1, start]
            if start + size > LAYERS:
                assert np.isnan(ours)
                continue
            assert abs(ours - mean[start, start + size]) < 1e-6
            ours = table.errors[size - 1, start]
            assert abs(ours - error[start, start + size]) < 1e-6


@pytest.mark.parametrize("position", ["target", "prompt"])
def test_the_table_is_the_naive_one(model, rows, position):
    """The table is the naive one."""
    table = measure(model, [make_batch(rows, PROMPTED)], position=position)
    ends = LENGTHS if position == "target" else PROMPTED
    each = naive(model, rows, [n - 1 for n in ends])
    expect(table, each)
    # The reference must be able to tell the two positions apart.
    other = PROMPTED if position == "target" else LENGTHS
    far = naive(model, rows, [n - 1 for n in other]).mean(0) - each.mean(0)
    assert np.abs(far).max() > 1e-3


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("split", [1, 2, 4])
def test_padding_and_split_do_not_change_it(model, rows, side, split):
    """Padding and split do not change it."""
    whole = measure(model, [make_batch(rows, PROMPTED)])
    for position in ("target", "prompt"):
        whole = measure(model, [make_batch(rows, PROMPTED)], position=position)
        batches = [
            make_batch(rows[i : i + split], PROMPTED[i : i + split], side)
            for i in range(0, len(rows), split)
        ]
        table = measure(model, batches, position=position)
        np.testing.assert_allclose(table.distances, whole.distances, atol=2e-6)
        np.testing.assert_allclose(table.errors, whole.errors, atol=2e-6)


def test_the_last_row_reads_the_raw_stream(model, rows):
    """The last row reads the raw stream."""
    table = measure(model, [make_batch(rows, PROMPTED)])
    each = []
    with torch.no_grad():
        for ids in rows:
            states = model(ids[None], output_hidden_states=True).hidden_states
            h_LD = torch.stack([s[0, -1] for s in states]).double()
            cosine_L = torch.cosine_similarity(h_LD[:-1], h_LD[-1:])
            each.append(torch.arccos(cosine_L) / np.pi)
    normed = torch.stack(each).mean(0).numpy()
    raw = naive(model, rows, [n - 1 for n in LENGTHS]).mean(0)[:-1, LAYERS]
    # Blocks that end with the last layer, the longest first.
    ours = [table.distances[LAYERS - s - 1, s] for s in range(LAYERS)]
    np.testing.assert_allclose(ours, raw, atol=1e-6)
    assert np.abs(normed - raw).max() > 1e-3


def test_embeddings_instead_of_ids_and_no_mask(model, rows):
    """Embeddings instead of ids and no mask."""
    ids = rows[0][None]
    a = measure(model, [{"input_ids": ids}])
    embeds = model.model.embed_tokens(ids)
    b = measure(model, iter([{"inputs_embeds": embeds}]))
    np.testing.assert_array_equal(a.distances, b.distances)


def test_a_half_precision_model_is_measured_finely(source, rows):
    """A half precision model is measured finely."""
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    table = measure(model, [make_batch(rows, PROMPTED)])
    exact = naive(model, rows, [n - 1 for n in LENGTHS]).mean(0)
    ours = table.distances[0, 0]
    assert abs(ours - exact[0, 1]) < 0.01
    assert len(np.unique(table.distances[~np.isnan(table.distances)])) == 15


def test_the_model_is_left_as_it_was(model, rows):
    """The model is left as it was."""
    model.train()
    hooks = len(model.model.layers[0]._forward_pre_hooks)
    measure(model, [make_batch(rows, PROMPTED)])
    assert model.training and model.model.training
    assert len(model.model.layers[0]._forward_pre_hooks) == hooks
    assert not model.model.layers[-1]._forward_hooks


def test_so_it_is_after_an_error(model, rows):
    """Modes and hooks come back whatever ends the measuring."""
    model.train()
    model.model.norm.eval()

    def broken(*args):
        """Fail in the middle of a pass."""
        raise RuntimeError("broken")

    handle = model.model.layers[1].mlp.register_forward_hook(broken)
    with pytest.raises(RuntimeError, match="broken"):
        measure(model, [make_batch(rows, PROMPTED)])
    handle.remove()
    assert model.model.training and model.model.layers[0].training
    assert not model.model.norm.training
    for layer in model.model.layers:
        assert not layer._forward_pre_hooks and not layer._forward_hooks


def test_no_lm_head_and_one_pass_only(model, rows):
    """No lm head and one pass only."""
    calls = []
    model.lm_head.register_forward_hook(lambda *a: calls.append("head"))
    model.model.layers[0].register_forward_hook(lambda *a: calls.append(0))
    measure(model, [make_batch(rows, PROMPTED)] * 2)
    assert calls == [0, 0]


def test_a_batch_may_hold_more_than_the_model_takes(model, rows):
    """A batch may hold more than the model takes."""
    batch = make_batch(rows, PROMPTED)
    expected = measure(model, [batch])
    batch["labels"] = batch["input_ids"].clone()
    batch["prompt_lengths"] = PROMPTED  # a list serves as well
    table = measure(model, [batch])
    np.testing.assert_array_equal(table.distances, expected.distances)
    table = measure(model, [batch], position="prompt")
    assert not np.allclose(table.distances, expected.distances, equal_nan=True)


@pytest.mark.parametrize(
    "change, position, words",
    [
        ({}, "middle", "neither of target, prompt"),
        ({"prompt_lengths": None}, "prompt", "needs prompt_lengths"),
        ({"prompt_lengths": torch.tensor([99])}, "prompt", "between 1 and"),
        (
            {"attention_mask": torch.zeros(1, 9, dtype=torch.long)},
            "target",
            "without a single token",
        ),
    ],
)
def test_bad_batches_are_refused(model, rows, change, position, words):
    """Bad batches are refused."""
    batch = {**make_batch(rows[:1], [5]), **change}
    with pytest.raises(ValueError, match=words):
        measure(model, [batch], position=position)


def test_nothing_to_measure_is_refused(model):
    """Nothing to measure is refused."""
    with pytest.raises(ValueError, match="data are empty"):
        measure(model, [])


def make_table(distances, **provenance):
    """Make table."""
    size = len(distances)
    table = np.full((size, size), np.nan)
    for row, values in enumerate(distances):
        table[row, : len(values)] = values
    return RedundancyTable(table, table * 0.1, 3, provenance)


SMALL = [[0.3, 0.1, 0.2, 0.01], [0.4, 0.3, 0.02], [0.5, 0.02], [0.9]]


def test_the_path_leaves_out_blocks_without_receiver():
    """The path leaves out blocks without receiver."""
    # The smallest distances of all end with the last layer.
    table = make_table(SMALL)
    assert table.path() == [Block(1, 1), Block(1, 2), Block(0, 3)]
    for size in (0, 4, 5):
        with pytest.raises(ValueError, match="choose 1 to 3"):
            table.best(size)


def test_saved_and_loaded(tmp_path):
    """Saved and loaded."""
    table = make_table(SMALL, model="m", input="text")
    table.save(tmp_path / "t.json")
    again = RedundancyTable.load(tmp_path / "t.json")
    np.testing.assert_array_equal(again.distances, table.distances)
    np.testing.assert_array_equal(again.errors, table.errors)
    assert (again.count, again.provenance) == (3, table.provenance)
    content = json.loads((tmp_path / "t.json").read_text())
    assert content["path"] == [[1, 1], [1, 2], [0, 3]]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"format": "x"}', "null", '{"format": 1, "a"'],
)
def test_a_file_that_is_no_table_is_refused(text, tmp_path):
    """A file that is no table is refused."""
    file = tmp_path / "t.json"
    file.write_text(text)
    with pytest.raises(ValueError, match="t.json is not a redundancy table"):
        RedundancyTable.load(file)


def test_a_distance_that_is_no_number_is_refused(tmp_path):
    """A distance that is no number is refused."""
    holed = [list(row) for row in SMALL]
    holed[1][2] = float("nan")  # of the one block of this size that may not go
    for build in (
        lambda: make_table(holed),
        lambda: RedundancyTable.from_pairs(*[np.full((4, 4), np.nan)] * 2, 3),
    ):
        with pytest.raises(ValueError, match="use bfloat16 or float32"):
            build()
    table = make_table(SMALL)
    table.save(tmp_path / "t.json")
    content = json.loads((tmp_path / "t.json").read_text())
    content["distances"][0][1] = None
    (tmp_path / "t.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="t.json.*use bfloat16 or float32"):
        RedundancyTable.load(tmp_path / "t.json")
    # Changed after it was made.
    table.distances[0, 1] = np.nan
    with pytest.raises(ValueError, match="1 of 3 are not a number"):
        table.best(1)
    with pytest.raises(ValueError, match="use bfloat16 or float32"):
        table.path()


@pytest.mark.parametrize("batches", [1, 2])
def test_a_model_that_overflows_is_not_measured(model, rows, batches):
    """An overflow in the first batch is told then; a later one at the end."""
    many = []

    def given():
        """Given."""
        for place in range(3):
            many.append(place)
            factor = float("nan") if place == batches - 1 else 1.0
            embeds = model.get_input_embeddings()(rows[0][None])
            yield {"inputs_embeds": (embeds * factor).detach()}

    with pytest.raises(ValueError, match="use bfloat16 or float32"):
        measure(model, given())
    assert len(many) == (1 if batches == 1 else 3)


def test_a_table_of_another_model_is_refused(tmp_path):
    """A table of another model is refused."""
    file = str(tmp_path / "t.json")
    make_table(SMALL, model="Qwen-small").save(file)
    block, about = read_path(file, 2, 4, "Qwen-small")
    assert block == Block(1, 2)
    assert (about["distance"], about["count"]) == (0.3, 3)
    with pytest.raises(ValueError, match="t.json.*4 layers.*5"):
        read_path(file, 2, 5, "Qwen-small")
    # As deep, and yet another model.
    with pytest.raises(ValueError, match="t.json.*Qwen-small.*Llama"):
        read_path(file, 2, 4, "Llama")


def test_comparison():
    """Comparison."""
    later = pytest.importorskip("speechbrain_ext.layers.agreement")
    compare = later.compare
    one = make_table(SMALL)
    assert compare(one, one) == {
        "mean_difference": 0.0,
        "correlation": pytest.approx(1.0),
        "same_start": 1.0,
        "overlap": 1.0,
    }
    other = [[0.1, 0.3, 0.2, 0.01], [0.4, 0.3, 0.02], [0.5, 0.02], [0.9]]
    found = compare(one, make_table(other))
    assert found["mean_difference"] == pytest.approx(0.04)
    a = [v for row in SMALL for v in row]
    b = [v for row in other for v in row]
    assert found["correlation"] == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert found["same_start"] == found["overlap"] == pytest.approx(2 / 3)
    shifted = [[0.3, 0.1, 0.2, 0.1], [0.1, 0.3, 0.2], [0.5, 0.02], [0.9]]
    found = compare(one, make_table(shifted))
    # Layers 0, 1 against 1, 2: one of two is shared.
    assert found["overlap"] == pytest.approx((1 + 0.5 + 1) / 3)
    with pytest.raises(ValueError, match="4 and 2 layers"):
        compare(one, make_table([[0.1, 0.2], [0.3]]))


TEXTS = ["one two three", "cat", "red dog and green cat", "x y"]


@pytest.mark.parametrize("prompted", [False, True])
def test_text_is_measured_without_a_speech_model(source, prompted):
    """Plain text is what the tokenizer makes of it, as a bare LM reads it."""
    decoder = Decoder.from_source(source)
    tokenizer = AutoTokenizer.from_pretrained(source)
    prompt = Prompt.from_template(tokenizer, PROMPT)
    table = measure_text(
        decoder, prompt, TEXTS, {"model": "m"}, 3, prompted=prompted
    )
    rows = []
    for text in TEXTS:
        target = prompt.encode_target(text)
        ids = [target[:-1]]
        if prompted:
            ids = [prompt.before, target[:-1], prompt.after, target[:-1]]
        else:
            ids = [prompt.plain().before, *ids]
        rows.append(torch.cat(ids))
    model = AutoModelForCausalLM.from_pretrained(source).eval()
    expect(table, naive(model, rows, [len(r) - 1 for r in rows]))
    assert table.provenance["input"] == "text"
    with pytest.raises(ValueError, match="text_input: prompted"):
        measure_text(decoder, prompt, TEXTS, {}, 3, position="prompt")
