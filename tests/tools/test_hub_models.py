"""Every family of speech LLMs in the table, tiny, with random weights."""

import base64
import contextlib
import copy
import json
import logging
import warnings

import numpy as np
import pytest
import torch
import transformers
from hub_families import LAYERS, MAKERS, sounds, tiny
from safetensors.torch import load_file, save_file
from transformers import (
    MODEL_FOR_MULTIMODAL_LM_MAPPING,
    MODEL_FOR_PRETRAINING_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    MODEL_FOR_TEXT_TO_WAVEFORM_MAPPING,
)

from speechbrain_ext.healing.apply import heal
from speechbrain_ext.healing.lora import Lora
from speechbrain_ext.layers import drop_layers, load_pruned, measure
from speechbrain_ext.layers.nested import REFUSED, SPEECH, place_of
from speechllm.hub.decoder import merged, text_lm
from speechllm.hub.model import HubModel
from speechllm.hub.prompts import HubPrompt

GONE = {1, 2}
FAMILIES = [place.model_type for place in SPEECH]
# Encoders to which what stands beside an utterance is not nothing.
BESIDE = ("fun_asr_nano", "phi4_multimodal")


@pytest.fixture(params=FAMILIES, scope="module")
def family(request):
    """A family's tiny model and its processor."""
    return request.param, *tiny(request.param)


@pytest.fixture
def hub(family):
    """The tiny model with its parts told apart."""
    _, model, processor = family
    return HubModel(copy.deepcopy(model), HubPrompt(processor, "Hear this."))


def waves(hub, count=4):
    """Sounds of different lengths, as a batch."""
    rows = [torch.from_numpy(one) for one in heard(hub, count)]
    lengths_B = torch.tensor([len(row) for row in rows])
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths_B


def heard(hub, count):
    """The sounds at the rate of the model."""
    return sounds(count, hub.prompt.sample_rate)


def logits(model, inputs):
    """A model's own logits; whatever is drawn at random drawn alike."""
    torch.manual_seed(0)
    with torch.no_grad():
        return model(**inputs, use_cache=False).logits


def inputs_of(hub, count=2, **how):
    """What the processor makes of some sounds."""
    return hub.prompt.inputs(heard(hub, count), **how)[0]


def by_hand(model, inputs, gone=GONE):
    """Logits of a whole model whose removed layers let the stream through."""
    layers = place_of(model).inner(model).layers
    own = {index: layers[index].forward for index in gone}
    for index in gone:
        layers[index].forward = lambda hidden_states, *args, **more: (
            hidden_states
        )
    try:
        return logits(model, inputs)
    finally:
        for index in own:
            del layers[index].forward


def test_table_holds_every_family_that_listens():
    """A family of the library that hears is taken, or refused with a reason."""
    hears, known = {}, {p.model_type for p in SPEECH} | set(REFUSED)
    known |= {name for place in SPEECH for name in place.part_of}
    for mapping in (
        MODEL_FOR_MULTIMODAL_LM_MAPPING,
        MODEL_FOR_PRETRAINING_MAPPING,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
        MODEL_FOR_TEXT_TO_WAVEFORM_MAPPING,
    ):
        for config in mapping.keys():
            parts = set(getattr(config, "sub_configs", None) or ())
            ears = {p for p in parts if "audio" in p or p == "encoder_config"}
            if "text_config" in parts and ears:
                hears[config.model_type] = parts
    assert {"qwen2_audio", "voxtral", "gemma4"} <= set(hears)
    missing = {name for name in set(hears) - known if not hears_no_speech(name)}
    assert not missing


def hears_no_speech(name):
    """Whether a family embeds or compares sound, and says nothing."""
    return name in ("clap", "pe_audio", "pe_audio_video", "embedding_gemma2")


def test_every_entry_has_a_tiny_model():
    """The tests below walk over the whole table."""
    assert set(MAKERS) == set(FAMILIES)


def test_pruned_is_the_kept_layers_by_hand(family, hub, tmp_path):
    """From memory, from the whole model's files and from its own: 0.0."""
    name, model, processor = family
    inputs = inputs_of(hub)
    expected = by_hand(model, inputs)
    pruned = drop_layers(model, GONE)
    assert torch.equal(logits(pruned, inputs), expected)
    assert not torch.equal(logits(model, inputs), expected)
    whole, smaller = tmp_path / "whole", tmp_path / "smaller"
    model.save_pretrained(whole)
    loaded = load_pruned(str(whole), GONE).eval()
    assert type(loaded) is type(model)
    assert torch.equal(logits(loaded, inputs), expected)
    pruned.save_pretrained(smaller)
    place = place_of(model)
    with warnings.catch_warnings(), told() as lines:
        warnings.simplefilter("error")
        again = type(model).from_pretrained(smaller).eval()
    assert not lines
    assert torch.equal(logits(again, inputs), expected)
    config = place.decoder_config(again.config)
    assert config.num_hidden_layers == LAYERS - len(GONE)
    if getattr(config, "layer_types", None):
        assert len(config.layer_types) == LAYERS - len(GONE)
    indices = [
        module.layer_idx
        for layer in place.inner(pruned).layers
        for module in layer.modules()
        if hasattr(module, "layer_idx")
    ]
    assert sorted(set(indices)) == list(range(LAYERS - len(GONE)))
    # The given one is left as it was.
    assert len(place.inner(model).layers) == LAYERS
    assert place.decoder_config(model.config).num_hidden_layers == LAYERS
    assert hub.whole is not model


class Keep(logging.Handler):
    """Keeps what is said."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines = []

    def emit(self, record):
        """Keep a line."""
        self.lines.append(record.getMessage())


@contextlib.contextmanager
def told():
    """What transformers says from here on, of warnings and worse."""
    keep, logger = Keep(), logging.getLogger("transformers")
    level = logger.level
    logger.addHandler(keep)
    logger.setLevel(logging.WARNING)
    try:
        yield keep.lines
    finally:
        logger.setLevel(level)
        logger.removeHandler(keep)


def test_generates_with_and_without_cache_the_same(family, hub):
    """The pruned model's own generate, cached and not."""
    pruned = drop_layers(family[1], GONE)
    inputs = inputs_of(hub, side="left")
    said = []
    for cached in (True, False):
        torch.manual_seed(0)
        said.append(
            pruned.generate(
                **inputs,
                max_new_tokens=5,
                min_new_tokens=5,
                do_sample=False,
                use_cache=cached,
            )
        )
    assert torch.equal(*said)


def test_decoder_alone_is_the_model(family, hub):
    """What reaches the decoder, through it and its head: the model's logits."""
    inputs = inputs_of(hub)
    expected = logits(hub.whole, inputs)
    torch.manual_seed(0)
    with torch.no_grad():
        reached = merged(hub.whole, inputs)
        found = text_lm(hub.whole)(**reached, use_cache=False).logits
    # What is said at padding means nothing, and positions there differ.
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(found[real], expected[real], rtol=0, atol=1e-5)
    hub.check()


def test_own_request_has_one_place_for_the_sound(family):
    """The model's own words; and one's own, whole or in its frame."""
    _, _, processor = family
    mark = processor.audio_token
    assert HubPrompt(processor).text.count(mark) == 1
    assert "Hear!" in HubPrompt(processor, "Hear!").text
    assert HubPrompt(processor, "a {speech} b").text == f"a {mark} b"
    with pytest.raises(ValueError, match="2 places"):
        HubPrompt(processor, "{speech} {speech}")


def test_targets_are_where_they_belong(family, hub):
    """Target logits are the model's own, at the prompt's end and behind it."""
    targets = [hub.prompt.encode_target(text) for text in ("yes", "no way")]
    torch.manual_seed(0)
    with torch.no_grad():
        found_NV, labels_N = hub(*waves(hub, 2), targets)
    assert labels_N.tolist() == torch.cat(targets).tolist()
    inputs, lengths = hub.prompt.inputs(heard(hub, 2), targets)
    # The end token is predicted and never read: tables are of the one before.
    read = [n + len(said) - 1 for n, said in zip(lengths, targets)]
    assert inputs["attention_mask"].sum(dim=1).tolist() == read
    whole_BQV = logits(hub.whole, inputs)
    rows = [
        row[n - 1 : n - 1 + len(said)]
        for row, n, said in zip(whole_BQV, lengths, targets)
    ]
    torch.testing.assert_close(found_NV, torch.cat(rows), rtol=0, atol=1e-4)


def test_batch_is_its_rows(family, hub):
    """A batch of four says what four batches of one say."""
    wav_BN, lengths_B = waves(hub)
    alone = [
        (wav_BN[i : i + 1, :n], lengths_B[i : i + 1])
        for i, n in enumerate(lengths_B.tolist())
    ]
    if family[0] in BESIDE:
        # The model's own property: what its encoder gives differs already.
        with torch.no_grad():
            sequence = hub.sequence(wav_BN, lengths_B, side="left")
            row = hub.sequence(*alone[0]).embeds_BQD[0]
        beside = sequence.embeds_BQD[0][-len(row) :]
        assert (beside - row).abs().max() > 1e-3
        return
    limits_B = torch.full((4,), 6)
    together = [one.ids for one in hub.answer(wav_BN, lengths_B, limits_B)]
    single = [hub.answer(*one, limits_B[:1])[0].ids for one in alone]
    assert together == single


def test_table_is_the_float64_reference(family, hub):
    """Angular distances, from hooks on the model itself, in float64."""
    inputs = inputs_of(hub, 2)
    layers, seen = place_of(hub.whole).inner(hub.whole).layers, []

    def before(module, args, options):
        """Keep the stream that enters."""
        seen.append(args[0] if args else options["hidden_states"])

    handles = [
        layer.register_forward_pre_hook(before, with_kwargs=True)
        for layer in layers
    ]
    handles.append(
        layers[-1].register_forward_hook(
            lambda m, a, out: seen.append(
                out if torch.is_tensor(out) else out[0]
            )
        )
    )
    logits(hub.whole, inputs)
    for handle in handles:
        handle.remove()
    last_B = inputs["attention_mask"].sum(1) - 1
    rows_B = torch.arange(len(last_B))
    h_LBD = torch.stack([h[rows_B, last_B] for h in seen]).double().numpy()
    h_LBD /= np.linalg.norm(h_LBD, axis=-1, keepdims=True)
    torch.manual_seed(0)
    sequence = hub.sequence(*waves(hub, 2))
    table = measure(hub.decoder, [sequence.as_inputs()])
    for size in range(1, LAYERS + 1):
        for start in range(LAYERS - size + 1):
            cosine = (h_LBD[start] * h_LBD[start + size]).sum(-1)
            expected = (np.arccos(cosine.clip(-1, 1)) / np.pi).mean()
            found = table.distances[size - 1, start]
            assert found == pytest.approx(expected, abs=1e-6)


def test_healing_starts_at_the_pruned_model(family, hub):
    """At step 0 nothing changes; a step changes the named parameters alone."""
    pruned = hub.without(GONE)
    targets = [pruned.prompt.encode_target(text) for text in ("yes", "no")]
    batch = (*waves(pruned, 2), targets)
    torch.manual_seed(0)
    with torch.no_grad():
        before, labels = pruned(*batch)
    # PEFT takes no dropout on experts.
    lora = Lora(dropout=0.0)
    trainable = heal(pruned, GONE, "both", lora, verbose=False)
    pruned.train()
    torch.manual_seed(0)
    after, _ = pruned(*batch)
    assert torch.equal(after, before)
    parts = {part: len(pairs) for part, pairs in trainable.parts.items()}
    assert parts["adapter"] and parts["projector"]
    frozen = {
        name: p.detach().clone()
        for name, p in pruned.named_parameters()
        if not p.requires_grad
    }
    old = [p.detach().clone() for _, p in trainable.named()]
    optimizer = torch.optim.SGD([p for _, p in trainable.named()], 1.0)
    torch.nn.functional.cross_entropy(after, labels).backward()
    optimizer.step()
    moved = [
        name
        for (name, p), was in zip(trainable.named(), old)
        if not torch.equal(p, was)
    ]
    # LoRA's first factors have no gradient yet: the second ones are zero.
    assert any("lora_B" in name for name in moved)
    assert any("projector" in name for name in moved)
    for name, p in pruned.named_parameters():
        if name in frozen:
            assert torch.equal(p, frozen[name]), name


@pytest.mark.parametrize("name", ["qwen2_5_omni", "qwen3_omni_moe"])
def test_thinker_out_of_a_whole_system(name, tmp_path):
    """What speaks is left out; the thinker is loaded as its own class."""
    model, processor = tiny(f"{name}_thinker")
    hub = HubModel(copy.deepcopy(model), HubPrompt(processor, "Hear this."))
    expected = by_hand(model, inputs_of(hub))
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    state = {f"thinker.{k}": v for k, v in load_file(file).items()}
    state["talker.model.layers.1.mlp.up_proj.weight"] = torch.zeros(2, 2)
    save_file(state, file, {"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    system = transformers.CONFIG_MAPPING[name](thinker_config=config)
    system.architectures = None
    system.save_pretrained(tmp_path)
    loaded = load_pruned(str(tmp_path), GONE).eval()
    assert type(loaded) is type(model)
    assert torch.equal(logits(loaded, inputs_of(hub)), expected)


def test_adapter_beside_the_weights_is_not_lost(tmp_path):
    """Granite Speech's older checkpoints have LoRA in a file of its own."""
    tiny("granite_speech")[0].save_pretrained(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="merge it"):
        load_pruned(str(tmp_path), GONE)


@pytest.mark.parametrize("kind", ["gemma3n", "instructblip"])
def test_other_families_are_refused(kind, tmp_path):
    """With the reason where it is known, and how to add an entry elsewhere."""
    transformers.CONFIG_MAPPING[kind]().save_pretrained(tmp_path)
    with pytest.raises(TypeError) as caught:
        load_pruned(str(tmp_path), {1})
    told = str(caught.value)
    if kind in REFUSED:
        assert REFUSED[kind] in told
    else:
        assert "nested.py" in told and "decoder" in told


def test_voxtral_is_asked_as_its_own_processor_asks(tmp_path):
    """With Mistral's own tokenizer: ids and features of a transcription."""
    base = pytest.importorskip("mistral_common.tokens.tokenizers.base")
    names = [mark.value for mark in base.SpecialTokens]
    first = ["<unk>", "<s>", "</s>"]
    names = first + [name for name in names if name not in first]
    # Where the processor takes it to be.
    names.remove("[AUDIO]")
    names.insert(24, "[AUDIO]")
    spectrogram = dict(num_mel_bins=128, hop_length=160, window_size=400)
    content = {
        "config": {
            "pattern": r"\s*\S+|\s+",
            "num_vocab_tokens": 256,
            "default_vocab_size": 256 + len(names),
            "default_num_special_tokens": len(names),
            "version": "v13",
        },
        "vocab": [
            {
                "rank": i,
                "token_bytes": base64.b64encode(bytes([i])).decode(),
                "token_str": None,
            }
            for i in range(256)
        ],
        "special_tokens": [
            {"rank": i, "token_str": name, "is_control": True}
            for i, name in enumerate(names)
        ],
        "audio": {
            "sampling_rate": 16000,
            "frame_rate": 12.5,
            "chunk_length_s": 30.0,
            "audio_encoding_config": spectrogram,
        },
    }
    (tmp_path / "tekken.json").write_text(json.dumps(content))
    own = transformers.MistralCommonBackend.from_pretrained(str(tmp_path))
    features = transformers.WhisperFeatureExtractor(feature_size=128)
    processor = transformers.VoxtralProcessor(features, own)
    sound = sounds(1)[0]
    expected = processor.apply_transcription_request(
        [sound], model_id="tiny", sampling_rate=16000, format=["WAV"]
    )
    found, lengths = HubPrompt(processor).inputs([sound])
    assert torch.equal(found["input_ids"], expected["input_ids"])
    assert lengths == [expected["input_ids"].shape[1]]
    difference = found["input_features"] - expected["input_features"]
    # Their own is written to 16 bits on the way.
    assert difference.abs().mean() < 0.05
