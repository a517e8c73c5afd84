"""Data preparation: anyone's own recordings and their text.

Which forms are read: `speechbrain_ext.data.own_forms`. Training, validation and
test data are given (a folder or table of each), told apart by a column
``split``, or drawn by speaker (`draw`).
"""

import os
import random

from speechbrain.utils.logger import get_logger

from speechbrain_ext.data.audio import (
    audio_blocks,
    audio_info,
    check_format,
    part_place,
)
from speechbrain_ext.data.audio_damage import AudioError
from speechbrain_ext.data.manifests import (
    SAMPLE_RATE,
    Manifests,
    PreparationError,
    Split,
    choose,
    fingerprint,
    holds,
    in_parallel,
    mark_repeated,
    measure,
)
from speechbrain_ext.data.own_forms import ALIASES, ENDINGS, form_of, read_data
from speechbrain_ext.data.sets import speaker_of

logger = get_logger(__name__)
VERSION = 1
WRITTEN = ["wav", "spk_id", "wrd", "translation"]
MEND = "Mend the lines that are named"
# Seconds that a part may reach beyond its recording, as in Kaldi.
BEYOND = 0.5


def prepare_own(
    data_folder,
    save_folder,
    splits,
    given,
    split,
    form=None,
    translated=False,
    resample=True,
    mix_channels=False,
    skip_prep=False,
    skip_bad=False,
    check_audio="header",
    threads=8,
):
    """Check the data and write ``<split>.csv`` for each split."""
    choose("check_audio", check_audio, ("header", "full"))
    root = find_root(data_folder)
    splits = list(dict.fromkeys(splits))
    manifests = Manifests(save_folder, "own", WRITTEN, MEND, skip_bad)
    if skip_prep:
        manifests.require(splits)
        return root
    places = find_places(data_folder, splits, given)
    tables, sets = [], {}
    for name, place in places.items():
        sets[name], files = read_data(place, root, form, name)
        tables += files
    share_out(sets, split, splits)
    settings = [VERSION, skip_bad, check_audio, root, form, split, translated]
    settings += [resample, mix_channels, places]
    found = []
    for name in splits:
        refuse_untold(sets[name], "translation" if translated else "wrd")
        audio = [one.row["file"] for one in sets[name] if "file" in one.row]
        state = fingerprint(settings, [*tables, *dict.fromkeys(audio)])
        found.append(Split(name, sets[name], state))
    tell_shared_speakers(found)
    mark_repeated(found, noted=True)
    todo = manifests.outdated(found)
    # What the tables alone tell comes before hours of decoding.
    manifests.refuse(todo)
    options = dict(resample=resample, mix_channels=mix_channels)
    look_at_audio(todo, options, check_audio == "full", threads)
    manifests.write(todo)
    return root


# ----------------------------------------------------------------------------
# Where the data lie.


def find_root(data_folder):
    """The folder that is given, or that of the table that is."""
    if os.path.isfile(data_folder):
        return os.path.dirname(os.path.abspath(data_folder))
    if not os.path.isdir(data_folder):
        raise PreparationError(
            f"data_folder: {data_folder}, no such folder or file: give the "
            "folder, or the table, of your recordings and their text"
        )
    return os.path.abspath(data_folder)


def check_task(task, target_language):
    """Whether translations are learned; refuses half a setting."""
    if task.startswith("AST") is not (target_language is not None):
        raise PreparationError(
            f"task: {task}, but target_language: {target_language}: for "
            "translation take hparams/small_translate.yaml, which sets both "
            "and the score; for transcripts leave target_language null"
        )
    return target_language is not None


def find_places(data_folder, splits, given):
    """Where each split lies that lies apart (dict); always train."""
    root, places = find_root(data_folder), {}
    for name in dict.fromkeys(["train", *splits, "valid", "test"]):
        if given.get(name):
            places[name] = os.path.join(root, given[name])
            if not os.path.exists(places[name]):
                raise PreparationError(
                    f"{name}_data: {given[name]}, no such file or folder in "
                    f"{root} ({holds(root)}): name one that is there"
                )
            continue
        names = [
            n + end
            for n in ALIASES.get(name, (name,))
            for end in ("", *ENDINGS)
        ]
        there = [os.path.join(root, n) for n in names]
        there = [place for place in there if form_of(place)]
        if there and os.path.isdir(data_folder):
            places[name] = there[0]
        elif name == "train":
            places[name] = os.path.abspath(data_folder)
        elif name not in ALIASES:
            raise PreparationError(
                f"{name}: {root} has no folder or table of that name "
                f"({holds(root)}): a split is train, valid, test, or a name "
                "there"
            )
    return places


# ----------------------------------------------------------------------------
# Who is trained on, who tests.


def share_out(sets, split, splits):
    """Take valid and test out of train, where they do not lie apart."""
    train = sets["train"]
    for one in train:
        name = one.row.get("split", "")
        own = [key for key, names in ALIASES.items() if name in names]
        one.row["split"] = own[0] if own else ""
        if name and not own:
            known = ", ".join(n for names in ALIASES.values() for n in names)
            one.refuse("unknown split", f"{name!r}: choose {known}")
    wanted = [name for name in ("valid", "test") if name not in sets]
    for name in wanted:
        sets[name] = [one for one in train if one.row["split"] == name]
    elsewhere = {id(one) for name in wanted for one in sets[name]}
    train = [one for one in train if id(one) not in elsewhere]
    # Whatever is asked for: who tests later must not be trained on now.
    to_draw = [name for name in wanted if not sets[name] and split[name]]
    if to_draw:
        chosen = draw(train, {name: split[name] for name in to_draw}, split)
        for name in to_draw:
            sets[name] = [one for one in train if unit(one) in chosen[name]]
        drawn = set().union(*chosen.values())
        train = [one for one in train if unit(one) not in drawn]
    sets["train"] = train
    few = split.get("test_speakers")
    if few and "test" in splits:
        sets["test"] = first_speakers(sets["test"], few)
    for name in splits:
        if not sets[name]:
            raise PreparationError(
                f"{name}: no utterance: give --{name}_data, a column split "
                f"with it, or how many speakers it takes, --split.{name} 10"
            )


def first_speakers(utterances, few):
    """Those of the first few speakers, or recordings, by sorted name."""
    units = sorted({unit(one) for one in utterances})
    logger.info(f"test: {min(few, len(units))} of {len(units)} speakers")
    return [one for one in utterances if unit(one) in units[:few]]


def unit(one):
    """What is not torn apart: a speaker, or a recording of nobody known."""
    return speaker_of(one.row) or one.row.get("file", one.name)


def draw(utterances, counts, split):
    """Speakers of each set, drawn from them sorted: name to set (dict)."""
    units = sorted({unit(one) for one in utterances})
    unknown = sum(speaker_of(one.row) is None for one in utterances)
    if unknown:
        logger.warning(
            f"{unknown} of {len(utterances)} utterances have no speaker: "
            f"{' and '.join(counts)} are drawn by recording there, and the "
            "same voice may be in training"
        )
    order = random.Random(split["seed"]).sample(units, len(units))
    chosen, rest = {}, order
    for name, count in counts.items():
        if count < 1:
            count = max(1, round(count * len(units)))
        chosen[name], rest = set(rest[: int(count)]), rest[int(count) :]
        logger.info(f"{name}: {len(chosen[name])} of {len(units)} speakers")
    if not rest or not all(chosen.values()):
        told = ", ".join(f"split.{k}: {v}" for k, v in counts.items())
        raise PreparationError(
            f"{told}: of {len(units)} speakers none is left to train on: "
            "choose less"
        )
    return chosen


def refuse_untold(utterances, what):
    """Mark utterances without the text that is to be said."""
    name = "translation" if what == "translation" else "transcript"
    for one in utterances:
        if not one.row.get(what):
            one.refuse(f"empty {name}")


def tell_shared_speakers(splits):
    """Warn of voices that are trained on and tested."""
    train, *others = splits
    known = {speaker_of(one.row) for one in train.good} - {None}
    for split in others:
        both = sorted(known & {speaker_of(one.row) for one in split.good})
        if both:
            logger.warning(
                f"{split.name}: {len(both)} of its speakers are in "
                f"{train.name} too ({', '.join(both[:5])}): its scores say "
                "little about new voices"
            )


# ----------------------------------------------------------------------------
# The audio itself.


def look_at_audio(splits, options, full, threads):
    """Fill in durations and parts; each file is opened once."""
    heads = {}

    def look(file):
        """Read a file's head, or all of it; note what it says."""
        try:
            heads[file] = audio_info(file)
            check_format(heads[file], file, SAMPLE_RATE, **options)
            for _ in audio_blocks(file, SAMPLE_RATE, **options) if full else ():
                pass
        except AudioError as error:
            heads[file] = error

    good = [one for split in splits for one in split.good]
    files = list(dict.fromkeys(one.row["file"] for one in good))
    in_parallel(look, files, threads, "reading audio")

    def seconds(one):
        """Length of an utterance, its place made that of its part."""
        head = heads[one.row["file"]]
        if isinstance(head, AudioError):
            raise head
        if "part" not in one.row:
            return head.seconds
        return cut(one, head)

    measure(splits, seconds, 1, "measuring")


def cut(one, head):
    """Make an utterance's place that of its part; gives its seconds."""
    rate, (start, end) = head.sample_rate, one.row["part"]
    first = round(start * rate)
    last = head.frames if end is None else round(end * rate)
    if last > head.frames + BEYOND * rate or first >= head.frames:
        told = "its end" if end is None else f"{end:g}"
        why = f"{start:g} to {told} s of {head.seconds:.2f} s"
        one.refuse("part beyond its recording", f"{why}: {one.row['file']}")
        return 0.0
    last = min(last, head.frames)
    if first >= last:
        why = f"{start:g} to {end:g} s holds no sample: {one.row['file']}"
        one.refuse("empty part", f"{why}: give seconds, START and END")
        return 0.0
    one.row["wav"] = part_place(one.row["wav"], first, last)
    return (last - first) / rate
