"""Numbers that hang on nothing but the utterance, whatever it is put among.

Random batches of tiny speech LLMs (Qwen2 and Llama; three tasks on one pruned
backbone) against each utterance alone. What the docs promise: in float32 the
same texts, and logits within `NEAR`; in bfloat16 another text where two tokens
were a rounding apart, of a few rows in a hundred.
"""

import random
from dataclasses import dataclass, field
from types import SimpleNamespace

import torch
from exported import make_run, speech_like
from speech_llm_fixtures import (
    KINDS,
    PROMPT,
    WORDS,
    make_decoder,
    make_encoder,
)

from soak.campaign import Outcome
from speechbrain_ext.layers.removal import Block
from speechbrain_ext.model.answers import answer
from speechbrain_ext.model.decoder import Decoder
from speechbrain_ext.model.prompt import Prompt
from speechbrain_ext.model.static_decoding import StaticDecoding
from speechllm.exported.transcribe import stream_ids
from speechllm.multitask import MultiTask
from speechllm.packaged import packaged_path

# Absolute, of a row's logits divided by the largest of them where that is
# over 1: float32 has 24 bits, and these sums are of some hundred numbers.
NEAR = 1e-5
# Two tokens are a near tie where their logits are as near as this many
# roundings of bfloat16 (2**-8 of the largest logit), a few for each layer.
ROUNDINGS = 16
# A few rows in a hundred.
DIFFER = 0.1
LONGEST = 12
RATE = 16000


# The kinds of faults; of batches in the order of `compositions`.
PLAIN = "a batch of any size, order and padding: float32"
FIXED = "the same, in fixed buffers: float32"
MIXED = "the same, its tasks mixed: float32"
STREAMED = "texts streamed side by side: float32"
BATCHES = PLAIN, FIXED, MIXED, STREAMED
NEAR_TIE = "another text only at a near tie: bfloat16"
FEW = "a few rows in a hundred differ: bfloat16"


def faults(setting):
    """Batches of both families; then numbers that are none."""
    from soak import numbers_bad

    torch.set_num_threads(1)
    many = setting.many(200, 2000) // len(KINDS)
    for kind in sorted(KINDS):
        if not setting.wants(*BATCHES, NEAR_TIE, FEW):
            break
        folder = setting.folder / kind
        pools = {
            dtype: make_pool(folder / dtype, kind, dtype)
            for dtype in ("float32", "bfloat16")
        }
        yield from compositions(setting, kind, pools["float32"], many)
        halves = pools["bfloat16"]
        yield from roundings(setting, kind, halves, many // 4)
        yield from minis(setting, kind, setting.many(64, 512))
    yield from numbers_bad.faults(setting)


@dataclass
class Spoken:
    """An utterance, and what each task says to it alone."""

    wav_N: torch.Tensor
    target: str
    ids: dict = field(default_factory=dict)
    logits: dict = field(default_factory=dict)


@dataclass
class Pool:
    """Tasks on one backbone, and utterances for them."""

    tasks: MultiTask
    spoken: list

    def targets(self, rows):
        """Target ids of some utterances, each of its task."""
        return [
            self.tasks.models[task].prompt.encode_target(one.target)
            for one, task in rows
        ]


def make_pool(folder, kind, dtype="float32", size=16):
    """Three tasks (LoRA, bare, another encoder), and utterances by length."""
    folder.mkdir(parents=True, exist_ok=True)
    decoder = make_decoder(kind, folder / "decoder")
    wavlm = make_encoder("wavlm", folder / "wavlm")
    whisper = make_encoder("whisper", folder / "whisper")
    runs = {}
    for seed, (name, task, strategy, encoder) in enumerate(
        [
            ("asr", "ASR", "both", wavlm),
            ("en_de", "AST en-de", "projector", wavlm),
            ("fr_en", "AST fr-en", "decoder", whisper),
        ]
    ):
        how = "whisper" if encoder == whisper else "wavlm"
        runs[name] = make_run(
            *(folder / name, decoder, encoder, task, strategy, seed),
            block=Block(1, 2),
            kind=how,
            dtype=dtype,
        )
    tasks = MultiTask.from_runs(runs).eval()
    dice = random.Random(kind)
    pool = Pool(tasks, [])
    for seed in range(size):
        wav_N = torch.from_numpy(speech_like(dice.uniform(0.1, 1.2), seed))
        said = " ".join(dice.choices(WORDS, k=dice.randint(1, 6)))
        pool.spoken.append(Spoken(wav_N, said))
    every = [(one, name) for one in pool.spoken for name in runs]
    for one, name in every:
        alone(pool, one, name)
    # Random weights hardly ever say the end: two of their words mean it.
    ends = [pool.spoken[0].ids["asr"][4], pool.spoken[1].ids["fr_en"][7]]
    tasks.decoder.lm.generation_config.eos_token_id = ends
    for one, name in every:
        alone(pool, one, name)
    return pool


@torch.no_grad()
def alone(pool, one, task):
    """Remember what a task says to an utterance by itself."""
    model = pool.tasks.use(task)
    x_BSF, tokens_B = model.features_of([one.wav_N])
    target = model.prompt.encode_target(one.target)
    one.logits[task], _ = model(x_BSF, tokens_B, [target])
    (said,) = model.answer(x_BSF, tokens_B, torch.tensor([LONGEST]))
    one.ids[task] = said.ids


# ----------------------------------------------------------------------------
# Batches of any composition.


def compositions(setting, kind, pool, many):
    """Random batches, in each way of decoding in turn."""
    ways = dict(zip(BATCHES, (plain, fixed, mixed, streamed)))
    fixed_buffers = StaticDecoding()
    for number in range(many):
        name, way = list(ways.items())[number % len(ways)]
        dice = setting.random(f"{kind} {name} {number}")
        rows = drawn(dice, pool, name == MIXED)
        limits = [dice.choice([0, 1, 3, LONGEST, LONGEST]) for _ in rows]
        pool.tasks.decoder.static = fixed_buffers if way is fixed else None
        logits, said = way(dice, pool, rows, limits)
        wrong = differs(pool, rows, limits, logits, said)
        which = f"{kind}, batch {number} of {len(rows)}"
        yield Outcome(name, which, wrong)
    pool.tasks.decoder.static = None


def drawn(dice, pool, mix):
    """Utterances in any number and order, some more than once."""
    task = dice.choice(sorted(pool.tasks.models))
    return [
        (
            dice.choice(pool.spoken),
            dice.choice(sorted(pool.tasks.models)) if mix else task,
        )
        for _ in range(dice.randint(1, 12))
    ]


def padded(dice, rows, rate=RATE):
    """Waveforms in one tensor, anything at all behind their ends."""
    lengths = [len(one.wav_N) for one, _ in rows]
    wav_BN = torch.full(
        (len(rows), max(lengths) + dice.choice([0, 1, 700, rate // 2])),
        dice.choice([0.0, 1.0, float("nan"), float("inf")]),
    )
    for wav_N, (one, _) in zip(wav_BN, rows):
        wav_N[: len(one.wav_N)] = one.wav_N
    return wav_BN, torch.tensor(lengths)


def plain(dice, pool, rows, limits):
    """One task's batch; features are padded once more, with anything."""
    model = pool.tasks.use(rows[0][1])
    with torch.no_grad():
        x_BSF, tokens_B = model.features(*padded(dice, rows))
        more = dice.choice([0, 0, 1, 5])
        filled = dice.choice([0.0, 9.0, float("nan")])
        x_BSF = torch.nn.functional.pad(
            x_BSF, (0, 0, 0, more), value=filled if more else 0.0
        )
        logits_NV, _ = model(x_BSF, tokens_B, pool.targets(rows))
    return logits_NV, model.answer(x_BSF, tokens_B, torch.tensor(limits))


def fixed(dice, pool, rows, limits):
    """The same; the decoder has been given buffers."""
    return plain(dice, pool, rows, limits)


def mixed(dice, pool, rows, limits):
    """Rows of all tasks in one batch, each through its own adapter."""
    del dice
    wavs, names = [one.wav_N for one, _ in rows], [task for _, task in rows]
    logits_NV, _ = pool.tasks.target_logits(wavs, names, pool.targets(rows))
    return logits_NV, pool.tasks.answer(wavs, names, torch.tensor(limits))


def streamed(dice, pool, rows, limits):
    """Several texts at a time, a token of any of them after another."""
    going, ids = {}, [[] for _ in rows]
    for row, (one, task) in enumerate(rows):
        settings = SimpleNamespace(
            precision="fp32",
            features_dtype=None,
            max_tokens_per_second=1000,
            max_new_tokens=max(limits[row], 1),
        )
        limits[row] = settings.max_new_tokens
        going[row] = stream_ids(
            lambda task=task: pool.tasks.use(task),
            settings,
            one.wav_N,
            "an utterance",
        )
    while going:
        row = dice.choice(sorted(going))
        token = next(going[row], None)
        if token is None:
            del going[row]
        else:
            ids[row].append(token)
    said = [
        SimpleNamespace(ids=own, hit_limit=len(own) >= most, finite=True)
        for own, most in zip(ids, limits)
    ]
    return None, said


def differs(pool, rows, limits, logits_NV, said):
    """What is not as it is alone; empty where all is."""
    for place, ((one, task), most, found) in enumerate(
        zip(rows, limits, said, strict=True)
    ):
        ids = one.ids[task][:most]
        if found.ids != ids or found.hit_limit != (len(ids) >= most):
            return f"row {place} says {found.ids}, alone {ids}"
    if logits_NV is None:
        return ""
    counts = [len(target) for target in pool.targets(rows)]
    for place, (own_NV, (one, task)) in enumerate(
        zip(logits_NV.split(counts), rows, strict=True)
    ):
        alone_NV = one.logits[task]
        off = (own_NV - alone_NV).abs().max() / alone_NV.abs().max().clamp(1)
        if not off <= NEAR:
            return f"row {place}: its logits are {off:.1e} off"
    return ""


# ----------------------------------------------------------------------------
# In half precision: another text only where two tokens were as near.


def roundings(setting, kind, pool, many):
    """Batches in bfloat16; a text may differ, where the docs say."""
    for number in range(many):
        dice = setting.random(f"{kind} bfloat16 {number}")
        mix = number % 2 == 1
        rows, wrong = drawn(dice, pool, mix), ""
        limits = [LONGEST] * len(rows)
        _, said = (mixed if mix else plain)(dice, pool, rows, limits)
        for place, ((one, task), found) in enumerate(zip(rows, said)):
            if found.ids == one.ids[task]:
                continue
            if not near_tie(pool, one, task, found.ids):
                wrong = f"row {place} says {found.ids}, no near tie"
        yield Outcome(NEAR_TIE, f"{kind}, batch {number}", wrong)


def minis(setting, kind, many):
    """How many rows differ, of decoders that were trained on words."""
    lm = Decoder.from_source(
        packaged_path(f"package:models/mini-{kind}"), dtype="bfloat16"
    ).eval()
    prompt = Prompt.from_template(lm.tokenizer, PROMPT)
    dice = setting.random(f"{kind} minis")
    speech = []
    for _ in range(many):
        words = " ".join(dice.choices(WORDS, k=dice.randint(2, 8)))
        ids = lm.tokenizer(words, add_special_tokens=False)["input_ids"]
        speech.append(lm.embed(torch.tensor(ids)))
    most = torch.full((many,), LONGEST)
    alone = [answer(lm, prompt, [one], most[:1])[0].ids for one in speech]
    order = dice.sample(range(many), many)
    other = 0
    while order:
        size = dice.choice([2, 4, 8])
        rows, order = order[:size], order[size:]
        said = answer(lm, prompt, [speech[i] for i in rows], most[: len(rows)])
        other += sum(one.ids != alone[i] for i, one in zip(rows, said))
    told = f"{kind}: {other} of {many} rows say something else"
    wrong = told if other > DIFFER * many else ""
    yield Outcome(FEW, told, wrong)


@torch.no_grad()
def near_tie(pool, one, task, ids):
    """Whether two answers part where two tokens were a rounding apart."""
    model, before = pool.tasks.use(task), one.ids[task]
    stops = model.decoder.stop_ids
    ours, theirs = [[*row, *stops[:1]] for row in (ids, before)]
    place = next(i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b)
    x_BSF, tokens_B = model.features_of([one.wav_N])
    logits_NV, _ = model(x_BSF, tokens_B, [torch.tensor(theirs[: place + 1])])
    last_V = logits_NV[-1].float()
    # Of an answer that ends there, whichever of the ends is the best.
    gap = 0.0
    for row, sign in ((ids, 1), (before, -1)):
        meant = row[place : place + 1] or stops
        gap += sign * last_V[meant].max().item()
    return abs(gap) <= ROUNDINGS * 2**-8 * last_V.abs().max().item()
