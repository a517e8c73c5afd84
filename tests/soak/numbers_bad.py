"""NaN and infinity, put into one utterance, one gradient, one layer's output.

Whoever trains, validates, decodes, measures, fits or transcribes is told of
the utterance by its id, once, and the others come out bit for bit as they do
without it.
"""

import contextlib
import logging
import math

import numpy as np
import torch
from exported import RATE, make_run, speech_like
from speech_llm_fixtures import (
    KINDS,
    make_brain,
    make_dataset,
    make_decoder,
    make_encoder,
    weights_of,
)

from soak.campaign import Outcome
from speechbrain_ext.healing.closed_form import fit_in_sequence
from speechbrain_ext.layers.lm_calls import decoder_layers
from speechbrain_ext.layers.removal import Block
from speechbrain_ext.model.static_decoding import StaticDecoding
from speechbrain_ext.training.choose_layers import measure_speech
from speechbrain_ext.training.whole_model import _sequences, pruned_twin
from speechllm.export.write import export_runs
from speechllm.exported.model import ExportedSpeechLLM

VALUES = (math.nan, math.inf, -math.inf)
REMOVED = Block(1, 2)
STEPS = 6


def faults(setting):
    """Each place, each value, in turn."""
    for kind in sorted(KINDS):
        folder = setting.folder / f"bad-{kind}"
        source = make_decoder(kind, folder / "decoder")
        yield from looked_at(setting, kind, source)
        yield from trained(setting, kind, source)
        yield from measured(setting, kind, source)
        yield from transcribed(setting, kind, source, folder)


@contextlib.contextmanager
def heard():
    """What is logged within (list of str)."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger().addHandler(handler)
    try:
        yield lines
    finally:
        logging.getLogger().removeHandler(handler)


@contextlib.contextmanager
def poisoned(brain, utterance, value, layer=None):
    """Within, an utterance's features, or a layer's output for it, is bad."""
    give, rows = brain.speech_of, []

    def speech_of(batch):
        """Remember the batch's rows; spoil the features of one."""
        x_BSF, tokens_B = give(batch)
        rows[:] = [i for i, name in enumerate(batch.id) if name == utterance]
        if layer is None and rows:
            x_BSF = x_BSF.clone()
            x_BSF[rows[0], 0, 3] = value
        return x_BSF, tokens_B

    def spoil(module, args, output):
        """Spoil the stream where a whole prompt is read, not a token."""
        h_BQD = output if torch.is_tensor(output) else output[0]
        if rows and h_BQD.shape[1] > 1:
            h_BQD = h_BQD.clone()
            # Its last real position is there on either side of the padding.
            h_BQD[rows[0], :, 5] = value
            return h_BQD if torch.is_tensor(output) else (h_BQD, *output[1:])
        return None

    brain.speech_of = speech_of
    hook = None
    if layer is not None:
        hook = decoder_layers(brain.model.decoder)[layer]
        hook = hook.register_forward_hook(spoil)
    try:
        yield
    finally:
        brain.speech_of = give
        if hook is not None:
            hook.remove()


def places(setting, kind, name, brain, ids):
    """Random utterances, values, and a layer or none, one after another."""
    for number in range(setting.many(6, 60)):
        dice = setting.random(f"{kind} {name} {number}")
        layers = range(len(decoder_layers(brain.model.decoder)))
        layer = dice.choice(layers) if number % 2 else None
        yield dice, dice.choice(ids), VALUES[number % 3], layer


def where(layer):
    """What a kind of fault calls the place."""
    return "one utterance's features" if layer is None else "a layer's output"


def untold(lines, utterance, ids):
    """What is wrong with what was told; empty where one id was, once."""
    said = [line for line in lines if utterance in line]
    others = [i for i in ids if i != utterance and any(i in x for x in lines)]
    if not said:
        return f"not told of {utterance}: {lines}"
    if others:
        return f"told of {others} too: {said}"
    return ""


def apart(before, after, utterance):
    """What differs besides the utterance itself."""
    for one, other in zip(before, after, strict=True):
        if one != other and one["id"] != utterance:
            return f"{one} became {other}"
    return ""


# ----------------------------------------------------------------------------
# Sets that are validated and decoded.


def looked_at(setting, kind, source):
    """Losses and texts of a set."""
    brain = make_brain(source, REMOVED, "both")
    data = make_dataset(brain.model.prompt)
    ids = list(data.data_ids)
    losses = brain.utterance_losses(data)
    rows = brain.decode(data, "test")
    for dice, bad, value, layer in places(setting, kind, "set", brain, ids):
        which = f"{kind}, {bad}, {value}, layer {layer}"
        with heard() as lines, poisoned(brain, bad, value, layer):
            found = brain.utterance_losses(data)
        wrong = untold(lines, bad, ids) or apart(losses, found, bad)
        yield Outcome(f"validation: {where(layer)}", which, wrong)
        static = dice.choice([None, StaticDecoding()])
        brain.model.decoder.static = static
        with heard() as lines, poisoned(brain, bad, value, layer):
            found = brain.decode(data, "test")
        brain.model.decoder.static = None
        wrong = untold(lines, bad, ids) or apart(rows, found, bad)
        marked = [row["id"] for row in found if not row.get("finite", True)]
        if not wrong and marked != [bad]:
            wrong = f"marked as no number: {marked}"
        yield Outcome(f"decoding: {where(layer)}", which, wrong)


# ----------------------------------------------------------------------------
# Steps of a training.


def trained(setting, kind, source):
    """Steps with a bad utterance, and with a bad gradient."""
    brain = make_brain(source, REMOVED, "both", steps=STEPS, valid_interval=9)
    ids = list(make_dataset(brain.model.prompt).data_ids)
    for dice, bad, value, layer in places(setting, kind, "step", brain, ids):
        which = f"{kind}, {bad}, {value}, layer {layer}"
        brain, steps, lines = training(source, bad, value, layer)
        wrong = changed(brain, steps, lambda step: bad in step["ids"])
        hit = any(bad in step["ids"] for step in steps)
        if not wrong and hit:
            wrong = untold(lines, bad, ids)
        yield Outcome(f"training: {where(layer)}", which, wrong)
        step = dice.randrange(STEPS)
        brain, steps, lines = training(source, gradient=(step, value, dice))
        wrong = changed(brain, steps, lambda one: one is steps[step])
        own = [i for i in steps[step]["ids"] if not any(i in x for x in lines)]
        if not wrong and (own or f"Step {step + 1}:" not in " ".join(lines)):
            wrong = f"not told of step {step + 1}, {own}: {lines}"
        which = f"{kind}, step {step + 1}, {value}"
        yield Outcome("training: one gradient", which, wrong)


def training(source, bad=None, value=None, layer=None, gradient=None):
    """A training; what was in each step, and whether it changed anything."""
    brain = make_brain(source, REMOVED, "both", steps=STEPS, valid_interval=9)
    data, steps = make_dataset(brain.model.prompt), []
    step, join = brain.fit_step, brain.optimizers_step

    def fit_step(batches):
        """Note what a step holds, and what it leaves as it was."""
        before = state_of(brain)
        steps.append({"ids": [i for batch in batches for i in batch.id]})
        loss = step(batches)
        after = state_of(brain)
        steps[-1]["same"] = before.keys() == after.keys() and all(
            torch.equal(before[key], after[key]) for key in before
        )
        return loss

    def optimizers_step(*given):
        """Spoil one number of one gradient."""
        if gradient and len(steps) - 1 == gradient[0]:
            named = [
                p for _, p in brain.trainable.named() if p.grad is not None
            ]
            gradient[2].choice(named).grad.view(-1)[0] = gradient[1]
        join(*given)

    brain.fit_step, brain.optimizers_step = fit_step, optimizers_step
    brain.nonfinite_patience = STEPS
    with heard() as lines, poisoned(brain, bad, value, layer):
        brain.fit(data, None)
    return brain, steps, [line for line in lines if line.startswith("Step")]


def state_of(brain):
    """Weights and moments, copied (dict)."""
    state = weights_of(brain)
    for place, moments in brain.optimizer.state_dict()["state"].items():
        for key, value in moments.items():
            state[f"{place} {key}"] = value.clone()
    return state


def changed(brain, steps, is_bad):
    """Whether each good step moved the weights, and no bad one did."""
    for number, step in enumerate(steps):
        if step["same"] != is_bad(step):
            return f"step {number + 1} of {step['ids']}: same: {step['same']}"
    bad = [n for n, v in weights_of(brain).items() if not v.isfinite().all()]
    return f"no numbers in {bad}" if bad else ""


# ----------------------------------------------------------------------------
# Measures and maps, which one utterance would spoil: refused, by its name.


def measured(setting, kind, source):
    """A redundancy table, and a map in closed form."""
    brain = make_brain(source, None)
    data = make_dataset(brain.model.prompt, size=14)
    ids, whole = list(data.data_ids), brain.model
    twin = pruned_twin(whole, REMOVED).eval()
    about = {"model": kind}
    for _, bad, value, layer in places(setting, kind, "table", brain, ids):
        which = f"{kind}, {bad}, {value}, layer {layer}"
        with poisoned(brain, bad, value, layer):
            wrong = refused(
                lambda: measure_speech(brain, data, about), bad, ids
            )
        yield Outcome(f"measuring: {where(layer)}", which, wrong)
        brain.modules.eval()
        sound = _sequences(brain, data)
        with torch.no_grad(), poisoned(brain, bad, value):
            spoilt = _sequences(brain, data)
        for name, rows in (("fitted on", [spoilt, sound]), ("held out", None)):
            rows, held_out = rows or [sound, spoilt]
            wrong = refused(
                lambda: fit_in_sequence(
                    whole.decoder, twin.decoder, [1], rows, held_out, [0.01]
                ),
                bad,
                ids,
            )
            yield Outcome(f"a map, {name}: {where(None)}", which, wrong)


def refused(work, bad, ids):
    """What is wrong with how some work was refused."""
    try:
        work()
    except ValueError as error:
        return untold([str(error)], bad, ids)
    return "nothing was told"


# ----------------------------------------------------------------------------
# Recordings in a list.


def transcribed(setting, kind, source, folder):
    """A list of which one recording has no numbers, or is given none."""
    encoder = make_encoder("wavlm", folder / "encoder")
    run = make_run(folder / "run", source, encoder, block=REMOVED)
    export_runs([run], str(folder / "export"), tell=lambda line: None)
    model = ExportedSpeechLLM.from_pretrained(folder / "export", device="cpu")
    wavs = [speech_like(0.3 + seed / 10, seed) for seed in range(6)]
    names = [f"waveform {place}" for place in range(len(wavs))]
    texts = [one.text for one in said(model, wavs)]
    task = model.use(model.default_task)
    for number in range(setting.many(6, 60)):
        dice = setting.random(f"{kind} list {number}")
        place, value = dice.randrange(len(wavs)), VALUES[number % 3]
        which = f"{kind}, recording {place}, {value}"
        spoilt, size = list(wavs), dice.choice([1, 2, 8])
        if number % 2:
            spoilt[place] = np.copy(wavs[place])
            spoilt[place][dice.randrange(2000)] = value
        with spoilt_encoder(task, None if number % 2 else wavs[place], value):
            found = said(model, spoilt, size)
            wrong = streams(model, spoilt[place])
        for at, one in enumerate(found):
            if at != place and getattr(one, "text", one) != texts[at]:
                wrong = f"recording {at} became {one}"
        if not wrong:
            wrong = untold([str(found[place])], names[place], names)
        what = "a sample" if number % 2 else "one recording's features"
        yield Outcome(f"transcribing a list: {what}", which, wrong)


def said(model, wavs, size=4):
    """Transcripts of some waveforms, an error in the place of one."""
    return model.transcribe(
        [(wav_N, RATE) for wav_N in wavs], size, on_error="return"
    )


def streams(model, wav_N):
    """A bad recording that is streamed must end with an error that names it."""
    try:
        text = "".join(model.stream((wav_N, RATE)))
    except ValueError as error:
        return "" if "waveform 0" in str(error) else f"streamed: {error}"
    return f"streamed without a word: {text!r}"


@contextlib.contextmanager
def spoilt_encoder(task, wav_N, value):
    """Within, the encoder gives no number for one waveform, or as it should."""
    give = task.features_of

    def features_of(wavs):
        """Find the waveform among the rows, and spoil its first frame."""
        x_BSF, tokens_B = give(wavs)
        for x_SF, given_N in zip(x_BSF, wavs):
            if len(given_N) == len(wav_N) and (given_N.numpy() == wav_N).all():
                x_SF[0, 0] = value
        return x_BSF, tokens_B

    task.features_of = give if wav_N is None else features_of
    try:
        yield
    finally:
        del task.features_of
