"""Healing: exactly what is asked for is trained, and nothing changes before.

Authors
 * The speechbrain_ext authors, 2026
"""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from speech_llm_fixtures import (
    LAYERS,
    make_brain,
    make_dataset,
    make_decoder,
    make_features,
    make_model,
)

from speechbrain_ext.healing import Lora, heal
from speechbrain_ext.healing.apply import train_parts
from speechbrain_ext.healing.distillation import Distillation
from speechbrain_ext.healing.frozen_adapter import put_frozen_adapter
from speechbrain_ext.healing.lora import (
    ATTENTION,
    MLP,
    load_adapter,
    save_adapter,
)
from speechbrain_ext.healing.presets import Healing
from speechbrain_ext.layers.removal import Block
from speechbrain_ext.model.decoder import Decoder
from speechbrain_ext.training.whole_model import pruned_twin

# Paper, Section 3.3.
STRATEGIES = ("none", "decoder", "projector", "both")

BLOCK = Block(1, 2)
TEXTS = ["one", "two red cat", "x"]


def logits_of(model):
    """Logits of."""
    x_BSF, tokens_B = make_features([6, 3, 5])
    targets = [model.prompt.encode_target(t) for t in TEXTS]
    return model(x_BSF, tokens_B, targets)[0]


def shake(trainable, seed=0):
    """Shake."""
    torch.manual_seed(seed)
    for _, parameter in trainable.named():
        parameter.data += 0.1 * torch.randn_like(parameter)


def adapter_names(layers, modules, prefix):
    """Names that an adapter on some modules of some layers has."""
    return {
        f"decoder.lm.model.layers.{layer}.{prefix}.{module}"
        f".lora_{side}.healing.weight"
        for layer in layers
        for module in modules
        for side in "AB"
    }


PROJECTOR = {
    f"projector.layers.{i}.{kind}"
    for i in (0, 2)
    for kind in ("weight", "bias")
}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_trainable_set_is_exact(source, strategy, capsys):
    """The trainable set is exact."""
    model = make_model(source, BLOCK)
    trainable = heal(model, BLOCK, strategy, Lora(rank=4))
    expected = set()
    if strategy in ("projector", "both"):
        expected |= PROJECTOR
    if strategy in ("decoder", "both"):
        expected |= adapter_names([BLOCK.start], MLP, "mlp")
    opened = {n for n, p in model.named_parameters() if p.requires_grad}
    assert opened == expected == {n for n, _ in trainable.named()}
    counts = trainable.counts()
    if strategy in ("decoder", "both"):
        # gate and up: 32 -> 48, down: 48 -> 32, two factors of rank 4.
        assert counts["adapter"] == 3 * 4 * (32 + 48)
    if strategy in ("projector", "both"):
        assert counts["projector"] == 12 * 32 + 32 + 32 * 32 + 32
    said = capsys.readouterr().out
    for part, count in counts.items():
        assert f"{part}, {count:,} parameters" in said
    assert counts or "Trained: nothing" in said


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("removed", [BLOCK, {0, 2}], ids=str)
def test_healing_at_step_0_is_the_pruned_model(source, strategy, removed):
    """Healing at step 0 is the pruned model."""
    model = make_model(source, removed).eval()
    with torch.no_grad():
        before = logits_of(model)
        heal(model, removed, strategy, verbose=False)
        model.eval()
        assert torch.equal(logits_of(model), before)


def test_every_gap_has_its_receiver(source):
    """Every gap has its receiver."""
    model = make_model(source, {0, 2})
    trainable = heal(model, {0, 2}, "decoder", verbose=False)
    names = {name for name, _ in trainable.named()}
    assert names == adapter_names([0, 1], MLP, "mlp")


def test_layers_may_be_told_once_only(source):
    """What is removed is any iterable, also one that is used up."""
    decoder = Decoder.from_source(source, iter([0, 2]))
    assert decoder.kept == (1, 3, 4)
    model = make_model(source, {0, 2})
    trainable = heal(model, iter([0, 2]), "decoder", verbose=False)
    names = {name for name, _ in trainable.named()}
    assert names == adapter_names([0, 1], MLP, "mlp")


def test_no_gradient_below_the_receiving_layer(source):
    """No gradient below the receiving layer."""
    check_gradient_stops(make_model(source, Block(2, 1)), Block(2, 1))


def test_nor_with_gradient_checkpointing(source):
    """Nor with gradient checkpointing."""
    block = Block(2, 1)
    model = make_model(source, block, gradient_checkpointing=True)
    check_gradient_stops(model, block)


def check_gradient_stops(model, block):
    """Check gradient stops."""
    trainable = heal(model, block, "decoder", verbose=False)
    model.train()
    layers = model.decoder.lm.model.layers
    needs = []
    for layer in layers:
        layer.register_forward_hook(
            lambda m, i, o: needs.append(
                (o[0] if isinstance(o, tuple) else o).requires_grad
            )
        )
    logits = logits_of(model)
    first = block.start
    assert needs[: len(layers)] == [i >= first for i in range(len(layers))]
    logits.sum().backward()
    assert all(p.grad is not None for _, p in trainable.named())
    assert all(p.grad is None for p in model.projector.parameters())


def test_the_adapter_acts_where_it_should(source):
    """The adapter acts where it should."""
    model = make_model(source, BLOCK).eval()
    with torch.no_grad():
        before = logits_of(model)
        trainable = heal(model, BLOCK, "decoder", verbose=False)
        model.eval()
        shake(trainable)
        assert (logits_of(model) - before).abs().max() > 1e-3
        with model.decoder.adapter.disable_adapter():
            assert torch.equal(logits_of(model), before)


def test_healing_what_is_whole_is_refused(source):
    """Healing what is whole is refused."""
    for strategy in ("decoder", "both"):
        with pytest.raises(ValueError, match="no layer was removed: choose"):
            heal(make_model(source), None, strategy)
    with pytest.raises(ValueError, match="none of none, decoder"):
        heal(make_model(source), BLOCK, "all")
    assert heal(make_model(source), None, "projector", verbose=False).named()


def test_a_stray_trainable_parameter_is_noticed(source):
    """A stray trainable parameter is noticed."""
    model = make_model(source, BLOCK)
    trainable = heal(model, BLOCK, "both", verbose=False)
    model.decoder.lm.lm_head.weight.requires_grad_(True)
    with pytest.raises(RuntimeError, match="Not the trainable set.*"):
        trainable.check(model)
    model.decoder.lm.lm_head.weight.requires_grad_(False)
    model.projector.layers[0].bias.requires_grad_(False)
    with pytest.raises(RuntimeError, match="projector.layers.0.bias"):
        trainable.check(model)


def test_saved_and_loaded_adapter(source, tmp_path):
    """Saved and loaded adapter."""
    model = make_model(source, BLOCK).eval()
    trainable = heal(model, BLOCK, "decoder", Lora(rank=3), verbose=False)
    shake(trainable)
    model.eval()
    save_adapter(model.decoder, str(tmp_path))
    folder = tmp_path / "healing"
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["layers_to_transform"] == [1] and config["r"] == 3
    for merge in (False, True):
        other = make_model(source, BLOCK).eval()
        load_adapter(other.decoder, str(folder), merge=merge)
        other.eval()
        assert (other.decoder.adapter is None) == merge
        with torch.no_grad():
            torch.testing.assert_close(
                logits_of(other), logits_of(model), atol=1e-5, rtol=1e-5
            )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("removed", [BLOCK, {0, 3}], ids=str)
@pytest.mark.parametrize("twin", [False, True])
def test_an_adapted_baseline_keeps_its_adapter_unrounded(
    source, removed, dtype, twin, tmp_path
):
    """Bit for bit the baseline's kept layers, its LoRA beside the weights."""
    whole = make_model(source, dtype=dtype).eval()
    trainable = train_parts(
        whole, True, (ATTENTION, range(LAYERS)), Lora(rank=2), verbose=False
    )
    names = {n for n, _ in trainable.named()}
    layers = range(LAYERS)
    assert names == PROJECTOR | adapter_names(layers, ATTENTION, "self_attn")
    shake(trainable)
    whole.eval()
    save_adapter(whole.decoder, str(tmp_path))
    folder = str(tmp_path / "healing")
    pruned = make_model(source, None if twin else removed, dtype=dtype).eval()
    pruned.projector.load_state_dict(whole.projector.state_dict())
    with torch.no_grad():
        plain = logits_of(pruned)
        put_frozen_adapter(pruned.decoder, folder, pruned.decoder.kept)
        if twin:  # a whole model whose frozen weights both share
            assert torch.equal(logits_of(pruned), logits_of(whole))
            pruned = pruned_twin(pruned, removed).eval()
        lm = whole.decoder.lm
        kept = pruned.decoder.kept
        lm.model.layers = torch.nn.ModuleList(lm.model.layers[k] for k in kept)
        lm.config.num_hidden_layers = len(kept)
        lm.model.config.num_hidden_layers = len(kept)
        before = logits_of(pruned)
        assert torch.equal(before, logits_of(whole))
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(logits_of(pruned), logits_of(whole))
        assert twin or (before - plain).abs().max() > 1e-2
    # Nothing of it is left open, and healing adapters go on top of it.
    trainable = heal(pruned, removed, "everywhere", verbose=False)
    assert {p for p in trainable.parts} == {"projector", "adapter"}
    assert any("q_proj.lora" in n for n, _ in trainable.named())
    with torch.no_grad():
        assert torch.equal(logits_of(pruned), before)
    # What is saved of the decoder is a plain one.
    assert not [n for n in pruned.decoder.state_dict() if "q_proj.up" in n]


def test_a_baselines_adapter_that_does_not_fit_is_refused(source, tmp_path):
    """A baselines adapter that does not fit is refused."""
    model = make_model(source)
    train_parts(model, False, (ATTENTION, range(LAYERS)), verbose=False)
    save_adapter(model.decoder, str(tmp_path))
    folder = tmp_path / "healing"
    file = folder / "adapter_model.safetensors"
    state = load_file(file)
    name = next(name for name in state if "q_proj.lora_B" in name)
    other = make_model(source)
    save_file({**state, name: state[name][1:].contiguous()}, file)
    with pytest.raises(ValueError, match="does not fit this decoder .*q_proj"):
        put_frozen_adapter(other.decoder, str(folder))
    save_file({**state, "odd": state[name].clone()}, file)
    with pytest.raises(ValueError, match="does not fit this decoder .*odd"):
        put_frozen_adapter(make_model(source).decoder, str(folder))
    save_file(state, file)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["use_rslora"] = True
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="use_rslora"):
        put_frozen_adapter(make_model(source).decoder, str(folder))


def test_an_adapter_of_another_model_is_refused(source, tmp_path):
    """An adapter of another model is refused."""
    model = make_model(source)
    train_parts(model, False, (ATTENTION, range(LAYERS)), verbose=False)
    save_adapter(model.decoder, str(tmp_path))
    other = make_model(source, BLOCK)
    with pytest.raises(ValueError, match="healing: .*5 layers.*has 3"):
        load_adapter(other.decoder, str(tmp_path / "healing"))
    with pytest.raises(FileNotFoundError, match="no adapter was saved"):
        load_adapter(other.decoder, str(tmp_path))


def test_adapters_train_in_full_precision(source):
    """A frozen decoder in half precision, its adapter in float32."""
    from speechbrain_ext.healing.lora import add_adapter

    decoder = Decoder.from_source(source, BLOCK, dtype="bfloat16")
    add_adapter(decoder, MLP, [1])
    types = {p.dtype for n, p in decoder.named_parameters() if "lora_" in n}
    assert types == {torch.float32}


# ------------------------------------------------------------------ presets
def parts(**own):
    """Parts."""
    return Healing.of("mine", own)


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_papers_four_are_what_they_were(name):
    """The papers four are what they were."""
    ours = Healing.of(name)
    assert ours.projector == (name in ("projector", "both"))
    assert ours.bridge is None and ours.distillation is None
    adapters = dict(where="receivers", modules="mlp", rank=None, budget=None)
    adapted = name in ("decoder", "both")
    assert ours.adapters == (adapters if adapted else None)
    assert not ours.needs_whole


@pytest.mark.parametrize("removed", [BLOCK, {0, 2}], ids=str)
@pytest.mark.parametrize(
    "name",
    ["attention", "bridge", "everywhere", "spread", "spread_attention"],
)
def test_a_preset_at_step_0_is_the_pruned_model(source, name, removed):
    """A preset at step 0 is the pruned model."""
    model = make_model(source, removed).eval()
    with torch.no_grad():
        before = logits_of(model)
        trainable = heal(model, removed, name, Lora(rank=4), verbose=False)
        model.eval()
        assert torch.equal(logits_of(model), before)
    opened = {n for n, p in model.named_parameters() if p.requires_grad}
    assert opened == {n for n, _ in trainable.named()}
    assert set(trainable.parts) == {"projector", "adapter"} | (
        {"bridge"} if name == "bridge" else set()
    )


def test_the_same_budget_buys_a_lower_rank_on_more(source):
    """A step of the scale alpha / rank stays; no more values than before."""
    paper = heal(make_model(source, BLOCK), BLOCK, "decoder", verbose=False)
    model = make_model(source, BLOCK)
    ours = heal(model, BLOCK, "attention", verbose=False)
    # MLP: 3 x 80. With q, o: 64 and k, v: 48 that is 464 for a rank.
    rank = 16 * 240 // 464
    assert ours.counts()["adapter"] == rank * 464
    assert ours.counts()["adapter"] <= paper.counts()["adapter"]
    config = model.decoder.adapter.peft_config["healing"]
    assert (config.r, config.lora_alpha / config.r) == (rank, 32 / 16)
    expected = adapter_names([1], MLP, "mlp")
    expected |= adapter_names([1], ATTENTION, "self_attn") | PROJECTOR
    assert {n for n, _ in ours.named()} == expected
    model = make_model(source, BLOCK)
    adapters = {"where": "all", "modules": "both", "budget": 3000}
    found = heal(model, BLOCK, parts(adapters=adapters), verbose=False)
    assert found.counts()["adapter"] == 2 * 3 * 464
    adapters["budget"] = 1000
    said = r"budget: 1000, but rank 1 .*\[0, 1, 2\] takes 1392"
    with pytest.raises(ValueError, match=said):
        heal(make_model(source, BLOCK), BLOCK, parts(adapters=adapters))


@pytest.mark.parametrize("name", ["spread", "spread_attention"])
def test_spread_healing_takes_no_more_than_that_of_one_run(tmp_path, name):
    """Spread healing takes no more than that of one run."""
    source = make_decoder("llama", tmp_path, num_hidden_layers=6)
    run, holes = BLOCK, {1, 3}
    paper = heal(make_model(source, run), run, "both", verbose=False)
    ours = heal(make_model(source, holes), holes, name, verbose=False)
    allowed = paper.counts()["adapter"]
    # Two receivers in place of one: at rank 8 the MLPs take as much.
    taken = {"spread": 8 * 2 * 240, "spread_attention": 4 * 2 * 464}[name]
    assert ours.counts() == {**paper.counts(), "adapter": taken}
    assert taken <= allowed == 16 * 240
    names = {n for n, _ in ours.named()} - PROJECTOR
    expected = adapter_names([1, 2], MLP, "mlp")
    if name == "spread_attention":
        expected |= adapter_names([1, 2], ATTENTION, "self_attn")
    assert names == expected


@pytest.mark.parametrize(
    "where, expected",
    [("receivers", [1, 3]), ("after", [1, 2, 3]), ("all", [0, 1, 2, 3])]
    + [([0, 2], [0, 2])],
)
def test_adapters_go_where_they_are_sent(tmp_path, where, expected):
    """Adapters go where they are sent."""
    source = make_decoder("llama", tmp_path, num_hidden_layers=6)
    removed = {1, 4}
    model = make_model(source, removed)
    adapters = {"where": where, "modules": "attention", "rank": 2}
    trainable = heal(model, removed, parts(adapters=adapters), verbose=False)
    names = {name for name, _ in trainable.named()}
    assert names == adapter_names(expected, ATTENTION, "self_attn")


def test_layers_that_are_not_kept_are_refused(source):
    """Layers that are not kept are refused."""
    adapters = {"where": [0, 3]}
    said = r"healing_parts.adapters.where: \[0, 3\], but 3 layers are kept"
    with pytest.raises(ValueError, match=said):
        heal(make_model(source, BLOCK), BLOCK, parts(adapters=adapters))
    with pytest.raises(ValueError, match="no layer was removed: choose"):
        heal(make_model(source), None, "bridge")


@pytest.mark.parametrize("where", ["receivers", "after"])
def test_adapters_after_the_gap_need_no_graph_below_it(source, where):
    """Adapters after the gap need no graph below it."""
    removed = Block(2, 1)
    model = make_model(source, removed)
    adapters = {"where": where, "modules": "both", "rank": 2}
    heal(model, removed, parts(adapters=adapters), verbose=False)
    model.train()
    graphs = []
    layers = model.decoder.lm.model.layers
    for layer in layers:
        layer.register_forward_hook(
            lambda m, i, o: graphs.append(o.grad_fn is not None)
        )
    logits_of(model)
    assert graphs == [False, False, True, True]


# -------------------------------------------------------------- distillation
def test_the_teachers_word_is_weighed(decoder_folders):
    """By hand: NLL and KL of distributions that are softened by t."""
    folder = decoder_folders["qwen2"]
    teacher = make_model(folder)
    torch.manual_seed(1)
    ours, theirs = torch.randn(2, 4, 9)
    labels = torch.tensor([0, 8, 3, 3])
    distillation = Distillation(teacher, 0.3, 2.0)
    p, q = (theirs / 2).softmax(-1), (ours / 2).softmax(-1)
    apart = (p * (p.log() - q.log())).sum()
    nll = -ours.log_softmax(-1)[range(4), labels].sum()
    found = distillation.loss(ours, theirs, labels)
    torch.testing.assert_close(found, 0.7 * nll + 0.3 * 4 * apart)
    assert not any(p.requires_grad for p in teacher.parameters())


def test_a_pupil_comes_nearer_to_its_teacher(decoder_folders):
    """A pupil comes nearer to its teacher."""
    folder = decoder_folders["qwen2"]
    found = {}
    for weight in (0.0, 1.0):
        brain = make_brain(
            folder, BLOCK, "both", steps=30, valid_interval=30, dropout=0.0
        )
        whole = make_model(folder)
        whole.projector.load_state_dict(brain.model.projector.state_dict())
        before = [p.clone() for p in whole.parameters()]
        brain.distillation = Distillation(whole, weight)
        data = make_dataset(brain.model.prompt, 6)
        brain.fit(data, data)
        # Validation is the labels' word alone.
        assert brain.history[-1]["valid_loss"] == brain.validate(data)
        assert all(map(torch.equal, before, whole.parameters()))
        assert not whole.training
        brain.model.eval()
        with torch.no_grad():
            p = logits_of(whole).softmax(-1)
            q = logits_of(brain.model).softmax(-1)
        found[weight] = (p * (p.log() - q.log())).sum().item()
    assert found[1.0] < 0.8 * found[0.0]
