"""Bridges across gaps: nothing at first, everywhere the decoder runs.

Authors
 * The speechbrain_ext authors, 2026
"""

import json

import pytest
import torch
from conftest import make_brain, make_dataset, make_features, make_model
from exported import make_run, speech_like
from safetensors.torch import load_file, save_file
from test_healing import BLOCK, TEXTS, logits_of, shake

from speechbrain_ext.healing import heal
from speechbrain_ext.healing.bridge import (
    add_bridges,
    bridges_of,
    load_bridges,
    remove_bridges,
    save_bridges,
    use_bridges,
)
from speechbrain_ext.healing.closed_form import fit_in_sequence, fold_maps
from speechbrain_ext.healing.lora import ADAPTER
from speechbrain_ext.healing.presets import Healing
from speechbrain_ext.layers.removal import Block
from speechbrain_ext.layers.surgery import drop_layers
from speechbrain_ext.model.static_decoding import StaticDecoding
from speechbrain_ext.training.build import load_baseline, save_trained
from speechbrain_ext.training.trained_run import TrainedRun
from speechllm.export.write import export_runs
from speechllm.exported.format import ExportError
from speechllm.exported.model import ExportedSpeechLLM
from speechllm.multitask import MultiTask, memory_of

RANKS = [3, "full"]
PLANS = [BLOCK, {0, 2}, {1, 3}]


def bridge_only(**changes):
    """Parts with nothing but a bridge."""
    return Healing.of("mine", {"bridge": {"rank": 3, **changes}})


def bridged(source, removed=BLOCK, rank=3, seed=0, **options):
    """A model whose bridges do something."""
    model = make_model(source, removed, **options)
    parts = bridge_only(rank=rank)
    trainable = heal(model, removed, parts, verbose=False)
    shake(trainable, seed)
    return model.eval()


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("removed", PLANS, ids=str)
def test_a_new_bridge_changes_no_bit(source, removed, rank):
    model = make_model(source, removed).eval()
    with torch.no_grad():
        before = logits_of(model)
        parts = bridge_only(rank=rank)
        trainable = heal(model, removed, parts, verbose=False)
        assert torch.equal(logits_of(model), before)
        shake(trainable)
        assert (logits_of(model) - before).abs().max() > 1e-3
        use_bridges(model.decoder, None)
        assert torch.equal(logits_of(model), before)


@pytest.mark.parametrize("rank", [32, 40])
def test_a_rank_that_is_not_low_is_refused_before_anything(source, rank):
    """As the settings and the check of an export do."""
    said = f"bridge.rank: {rank}, but the stream is 32 wide: .*or full"
    model = make_model(source, BLOCK)
    before = {name for name, _ in model.named_modules()}
    with pytest.raises(ValueError, match=said):
        heal(model, BLOCK, bridge_only(rank=rank), verbose=False)
    assert {name for name, _ in model.named_modules()} == before
    decoders = model.decoder, model.decoder
    with pytest.raises(ValueError, match=said):
        fit_in_sequence(*decoders, [1], [], [], [0.1], rank=rank)


@pytest.mark.parametrize("rank", RANKS)
def test_it_is_the_step_it_says(source, rank):
    """Against the layers run by hand, with the step between them."""
    model = bridged(source, {1, 3}, rank)
    ids = torch.arange(4, 12)[None]
    lm = model.decoder.lm
    with torch.no_grad():
        got = lm(input_ids=ids).logits
        bridges = bridges_of(model.decoder)
        assert sorted(bridges) == [1, 2]
        remove_bridges(model.decoder)
        for index, bridge in bridges.items():
            matrix = bridge.weight if rank == "full" else None
            if matrix is None:
                matrix = bridge.up @ bridge.down

            def step(layer, args, m=matrix, b=bridge.bias):
                return (args[0] + args[0] @ m.T + b, *args[1:])

            lm.model.layers[index].register_forward_pre_hook(step)
        torch.testing.assert_close(
            got, lm(input_ids=ids).logits, atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("removed", PLANS, ids=str)
def test_cached_static_and_batched_decoding(source, removed):
    model = bridged(source, removed)
    sizes, limits = [4, 9, 1, 6, 2, 7, 3, 5], torch.tensor([9, 3, 7, 8] * 2)
    x_BSF, tokens_B = make_features(sizes)
    with torch.no_grad():
        sequence = model.sequence(x_BSF, tokens_B, side="left")
        together = model.decoder.greedy(sequence, limits)
        model.decoder.static = StaticDecoding()
        assert model.decoder.greedy(sequence, limits) == together
        model.decoder.static = None
        for row, size in enumerate(sizes):
            one = slice(row, row + 1)
            alone = model.sequence(
                x_BSF[one, :size], tokens_B[one], side="left"
            )
            said = model.decoder.greedy(alone, limits[one])[0]
            assert said == together[row]
            # Without a cache: all positions anew for each token.
            targets = [torch.tensor([*said, 0])]
            logits = model(x_BSF[one, :size], tokens_B[one], targets)[0]
            assert logits[: len(said)].argmax(-1).tolist() == said
        use_bridges(model.decoder, None)
        assert model.decoder.greedy(sequence, limits) != together


def test_other_bridges_need_another_recording(source):
    model = bridged(source)
    x_BSF, tokens_B = make_features([4, 2])
    static, limits = StaticDecoding(), torch.tensor([9, 9])
    model.decoder.static = static
    with torch.no_grad():
        sequence = model.sequence(x_BSF, tokens_B, side="left")
        model.decoder.greedy(sequence, limits)
        buffers = static._steps
        use_bridges(model.decoder, None)
        model.decoder.greedy(sequence, limits)
    assert static._steps is not buffers


def test_batch_of_8_is_8_batches_of_1(source):
    model = bridged(source, {0, 2})
    sizes = [6, 3, 5, 1, 2, 7, 4, 8]
    x_BSF, tokens_B = make_features(sizes)
    targets = [model.prompt.encode_target(t) for t in (TEXTS * 3)[:8]]
    with torch.no_grad():
        together = model(x_BSF, tokens_B, targets)[0]
        alone = [
            model(x_BSF[i : i + 1, :n], tokens_B[i : i + 1], [targets[i]])[0]
            for i, n in enumerate(sizes)
        ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("where", ["receivers", "after"])
def test_no_graph_below_the_first_gap(source, where, checkpointing):
    removed = {2, 3}
    model = make_model(source, removed, gradient_checkpointing=checkpointing)
    own = {
        "bridge": {"rank": 2, "where": where},
        "adapters": {"where": where, "modules": "both", "rank": 2},
    }
    parts = Healing.of("mine", own)
    trainable = heal(model, removed, parts, verbose=False)
    shake(trainable)
    model.train()
    graphs = []

    def note(layer, args, output):
        h_BQD = output[0] if isinstance(output, tuple) else output
        graphs.append(h_BQD.grad_fn is not None)

    layers = model.decoder.lm.model.layers
    for layer in layers:
        layer.register_forward_hook(note)
    logits = logits_of(model)
    assert graphs[: len(layers)] == [False, False, True]
    logits.sum().backward()
    assert all(p.grad is not None for _, p in trainable.named())
    assert set(trainable.counts()) == {"adapter", "bridge"}


def test_gradients_are_those_without_checkpointing(source):
    found = []
    for checkpointing in (False, True):
        model = bridged(source, gradient_checkpointing=checkpointing).train()
        logits_of(model).square().sum().backward()
        parameters = model.named_parameters()
        found.append({n: p.grad for n, p in parameters if p.requires_grad})
    assert len(found[0]) == 3
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)


def test_it_survives_adapters_and_fewer_layers(source):
    """PEFT around it, merged again, and layers dropped behind it."""
    model = make_model(source, BLOCK)
    parts = Healing.of("bridge")
    trainable = heal(model, BLOCK, parts, verbose=False)
    assert set(trainable.counts()) == {"projector", "adapter", "bridge"}
    shake(trainable)
    model.eval()
    decoder = model.decoder
    with torch.no_grad():
        before = logits_of(model)
        decoder.lm = decoder.adapter.merge_and_unload()
        decoder.use_adapter(None)
        torch.testing.assert_close(
            logits_of(model), before, atol=1e-4, rtol=1e-4
        )
        # 0 goes, 1 with its bridge becomes 0.
        fewer = drop_layers(decoder.lm, {0})
        (bridge,) = bridges_of(fewer).values()
        assert list(bridges_of(fewer)) == [0]
        assert bridge.up is bridges_of(decoder)[1].up
        ids = torch.arange(4, 9)[None]
        said = fewer(input_ids=ids).logits
        use_bridges(fewer, None)
        assert (fewer(input_ids=ids).logits - said).abs().max() > 1e-3
        # The one it was made from still has its own switched on.
        torch.testing.assert_close(
            logits_of(model), before, atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("rank", RANKS)
def test_saved_and_loaded(source, rank, tmp_path):
    model = bridged(source, {0, 2}, rank)
    path = str(tmp_path / "bridge.safetensors")
    save_bridges(model.decoder, path)
    other = make_model(source, {0, 2}).eval()
    load_bridges(other.decoder, path)
    with torch.no_grad():
        assert torch.equal(logits_of(other), logits_of(model))
    other = make_model(source, {0, 1, 2, 3})
    with pytest.raises(ValueError, match="bridge of layer 1.*1 layers"):
        load_bridges(other.decoder, path)
    state = load_file(path)
    state = {k: v[..., :-1].contiguous() for k, v in state.items()}
    save_file(state, path)
    with pytest.raises(ValueError, match="made for another model"):
        load_bridges(make_model(source, {0, 2}).decoder, path)


def test_a_gap_at_the_first_layer(source):
    """A bridge may stand there; nothing is before it to fold into."""
    model = make_model(source, {0}).eval()
    trainable = heal(model, {0}, bridge_only(), verbose=False)
    assert "decoder.lm.model.layers.0.bridges" in trainable.named()[0][0]
    with pytest.raises(ValueError, match="no layer before the gap"):
        fold_maps(make_model(source, {0}).decoder, {0: torch.zeros(32, 32)})
    with pytest.raises(ValueError, match="no layer before the gap"):
        heal(make_model(source, {0}), {0}, "map_folded")


def test_training_moves_the_bridge_alone_at_its_own_rate(
    decoder_folders, tmp_path
):
    folder = decoder_folders["qwen2"]
    brain = make_brain(
        folder, BLOCK, bridge_only(), tmp_path / "a", lr_bridge=3e-2, steps=6
    )
    before = {n: p.clone() for n, p in brain.model.named_parameters()}
    brain.fit(make_dataset(brain.model.prompt, 6))
    (group,) = brain.optimizer.param_groups
    assert group["peak"] == 3e-2
    ours = {n for n, _ in brain.trainable.named()}
    assert len(ours) == 3
    for name, parameter in brain.model.named_parameters():
        assert torch.equal(parameter, before[name]) != (name in ours), name
    # Stopped in the middle and gone on: the same weights.
    for steps in (3, None):
        again = make_brain(
            folder, BLOCK, bridge_only(), tmp_path / "b", lr_bridge=3e-2
        )
        again.hparams.steps = 6
        again.optimizer_step_limit = steps
        again.fit(make_dataset(again.model.prompt, 6))
    theirs = dict(again.trainable.named())
    for name, parameter in brain.trainable.named():
        assert torch.equal(parameter, theirs[name]), name


# ------------------------------------------------ finished runs and exports
@pytest.fixture(scope="module")
def runs(tmp_path_factory, decoder_folders, encoder_folders):
    """Runs of two tasks with bridges, and one without."""
    top = tmp_path_factory.mktemp("runs")
    folders = {}
    for seed, (name, task, strategy) in enumerate(
        [
            ("asr", "ASR", "bridge"),
            ("de", "AST en-de", bridge_only(rank="full")),
            ("fr", "AST fr-en", "both"),
        ]
    ):
        folders[name] = make_run(
            top / name,
            decoder_folders["qwen2"],
            encoder_folders["wavlm"],
            task=task,
            strategy=strategy,
            seed=seed,
        )
    return folders


def test_a_run_gives_its_bridge_back(runs, encoder_folders):
    folder = runs["asr"]
    system = json.load(open(f"{folder}/trained/system.json"))
    assert system["bridge"] == "bridge.safetensors"
    assert system["adapter"] == ADAPTER
    model = TrainedRun(folder).load()
    state = load_file(f"{folder}/trained/bridge.safetensors")
    (bridge,) = bridges_of(model.decoder).values()
    assert torch.equal(bridge.up, state["1.up"]) and bridge.up.any()
    assert not any(p.requires_grad for p in model.parameters())
    assert TrainedRun(runs["fr"]).bridge_file is None
    with pytest.raises(ValueError, match="give the whole model's run"):
        load_baseline(model, folder, {})


@pytest.mark.parametrize("merge", [False, True])
def test_export_with_the_bridge_beside_the_backbone(runs, merge, tmp_path):
    folder = str(tmp_path / "e")
    report = export_runs(
        [runs["asr"]], folder, merge=merge, tell=lambda line: None
    )
    assert set(report["differences"]["asr"]) >= {"logits_NV", "lm_logits_QV"}
    names = load_file(f"{folder}/backbone/model.safetensors")
    assert not [name for name in names if "bridge" in name]
    card = open(f"{folder}/README.md").read()
    assert "Plain transformers\ndoes not know them" in card
    model = ExportedSpeechLLM.from_pretrained(folder)
    ours = TrainedRun(runs["asr"]).load()
    x_BSF, tokens_B = make_features([3], width=48)
    with torch.no_grad():
        one = model.use("asr")(x_BSF, tokens_B, [torch.tensor([5, 6, 7])])[0]
        two = ours(x_BSF, tokens_B, [torch.tensor([5, 6, 7])])[0]
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)
        use_bridges(model.decoder, None)
        bare = model.tasks.models["asr"](
            x_BSF, tokens_B, [torch.tensor([5, 6, 7])]
        )[0]
    assert (bare - two).abs().max() > 1e-2


@pytest.mark.parametrize("fault", ["layer", "shape", "more", "less"])
def test_a_foreign_bridge_is_refused(runs, fault, tmp_path, monkeypatch):
    from speechllm.export import write

    honest = write._write_heads

    def spoil(out, *rest):
        path = f"{out}/tasks/asr/bridge.safetensors"
        state = load_file(path)
        if fault == "layer":
            state = {f"7{key}": value for key, value in state.items()}
        elif fault == "shape":
            state["1.up"] = state["1.up"][:, 1:].contiguous()
        elif fault == "more":
            state["1.code"] = torch.zeros(1)
        else:
            state.pop("1.bias")
        save_file(state, path)
        honest(out, *rest)

    monkeypatch.setattr(write, "_write_heads", spoil)
    with pytest.raises(ExportError, match="bridge.safetensors: "):
        export_runs([runs["asr"]], str(tmp_path / "e"), tell=lambda line: None)


def test_each_task_crosses_its_own_bridge(runs):
    tasks = MultiTask.from_runs(runs)
    wavs = [torch.tensor(speech_like(s, i)) for i, s in enumerate([0.9, 0.6])]
    alone = {name: TrainedRun(folder).load() for name, folder in runs.items()}
    names = [name for name in runs for _ in wavs]
    limits_B = torch.tensor([9, 4] * len(runs))
    said = tasks.transcribe(wavs * len(runs), names, limits_B)
    targets = [torch.tensor([5, 6, 7])]
    mixed = tasks.target_logits(wavs * len(runs), names, targets * len(names))
    mixed = mixed[0].split(3)
    for row, name in enumerate(names):
        wav_BN = wavs[row % 2][None]
        x_BSF, tokens_B = tasks.models[name].features(
            wav_BN, torch.tensor([wav_BN.shape[1]])
        )
        with torch.no_grad():
            ours = tasks.use(name)(x_BSF, tokens_B, targets)[0]
            theirs = alone[name](x_BSF, tokens_B, targets)[0]
        assert torch.equal(ours, theirs)
        torch.testing.assert_close(mixed[row], theirs, atol=1e-5, rtol=1e-5)
        one = slice(row, row + 1)
        text = alone[name].transcribe(x_BSF, tokens_B, limits_B[one])
        assert said[row] == text[0]
    memory = memory_of(tasks)
    assert memory["tasks"]["de"]["bridge"] == 4 * (32 * 32 + 32)
    assert "bridge" not in memory["tasks"]["fr"]
    sizes = [p.numel() * p.element_size() for p in tasks.parameters()]
    assert memory["together"] == sum(sizes)


def test_folded_weights_are_one_tasks_own(
    runs, tmp_path, decoder_folders, encoder_folders
):
    """Loaded, exported as a plain model, and not shared with other tasks."""
    folder = make_run(
        tmp_path / "run", decoder_folders["qwen2"], encoder_folders["wavlm"]
    )
    model = TrainedRun(folder).load()
    run = TrainedRun(folder)
    decoder = run.load_decoder()
    torch.manual_seed(1)
    fold_maps(decoder, {1: 0.1 * torch.randn(32, 32)})
    model.decoder = decoder
    about = json.load(open(f"{folder}/trained/system.json"))
    save_trained(model, folder, {k: about[k] for k in ("encoder", "backbone")})
    run = TrainedRun(folder)
    assert run.folded_file and not run.bridge_file
    again = run.load_decoder()
    ids = torch.arange(4, 12)[None]
    with torch.no_grad():
        ours = decoder.lm(input_ids=ids).logits
        assert torch.equal(again.lm(input_ids=ids).logits, ours)
    report = export_runs([folder], str(tmp_path / "e"), tell=lambda _: None)
    assert report["differences"]["asr"]["lm_logits_QV"] == 0
    assert "does not know" not in open(tmp_path / "e/README.md").read()
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(str(tmp_path / "e/backbone"))
    with torch.no_grad():
        assert torch.equal(plain(input_ids=ids).logits, ours)
    with pytest.raises(ValueError, match="a map folded"):
        MultiTask.from_runs({"one": runs["fr"], "two": folder})


def test_add_bridges_takes_a_list_of_layers(source):
    decoder = make_model(source, Block(1, 1)).decoder
    add_bridges(decoder, [0, 3], rank=2)
    assert sorted(bridges_of(decoder)) == [0, 3]
    assert {p.dtype for p in bridges_of(decoder)[0].parameters()} == {
        torch.float32
    }
