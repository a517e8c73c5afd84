"""The shapes of the mini world's sentences, with their translations.

Ten shapes with slots, and four more that only the out-of-domain set uses.
Each draws the words for its slots and puts them into a sentence in English,
German and French, with gender, case and word order right.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace

from num2words import num2words

from speechllm.mini_world.corpus import lexicon

LANGUAGES = ("en", "de", "fr")
# What agrees with a noun of each gender.
GERMAN = {
    "m": dict(the="der", object="den", my="mein", strong="er", weak="en"),
    "f": dict(the="die", object="die", my="meine", strong="e", weak="e"),
    "n": dict(the="das", object="das", my="mein", strong="es", weak="e"),
}
FRENCH = {"m": dict(the="le", my="mon"), "f": dict(the="la", my="ma")}


@dataclass(frozen=True)
class Sentence:
    """One meaning in three languages, with case and punctuation."""

    en: str
    de: str
    fr: str


class _Forms(SimpleNamespace):
    """A word in one language, and forms of it and of what agrees with it."""

    def __str__(self):
        return self.one


@cache
def _noun(row):
    """A noun in each language."""
    en, en_many, de, gender, de_many, fr, fr_gender, fr_many = row
    return (
        _Forms(one=en, many=en_many),
        _Forms(one=de, many=de_many, **GERMAN[gender]),
        _Forms(one=fr, many=fr_many, gender=fr_gender, **FRENCH[fr_gender]),
    )


def _adjective(row, noun):
    """An adjective in each language, in French with its noun: it has a place."""
    en, de, masculine, feminine, place = row
    word = feminine if noun.gender == "f" else masculine
    return en, de, f"{word} {noun}" if place == "before" else f"{noun} {word}"


@cache
def _number(value):
    return [num2words(value, lang=language) for language in LANGUAGES]


def _drawn(slots, rng):
    """What the slots hold in English, German and French, drawn in order."""
    found = {}, {}, {}
    for slot in slots.split():
        names, table = slot.split("=")
        names = names.split("+")
        if "-" in table:
            rows = [_number(rng.randint(*map(int, table.split("-"))))]
        else:
            rows = getattr(lexicon, table)
            many = len(names)
            rows = rng.sample(rows, many) if many > 1 else [rng.choice(rows)]
        for name, row in zip(names, rows):
            if table == "NAMES":
                row = (row,) * 3
            elif table == "NOUNS":
                row = noun = _noun(row)
            elif table == "ADJECTIVES":
                row = _adjective(row, noun[2])
            elif table == "PLACES":
                row = row[0], _Forms(one=row[1], whither=row[2]), row[3]
            for own, word in zip(found, row):
                own[name] = word
    return found


def _filled(text, words):
    text = text.format_map(words)
    return text[0].upper() + text[1:]


@dataclass(frozen=True)
class Shape:
    """A sentence with slots, and what is drawn for them.

    ``a=CITIES`` is a row of a table of the lexicon, ``a+b=CITIES`` are two
    different ones, ``a=2-60`` is a number. An adjective is of the noun drawn
    last before it, and its French has that noun in it.
    """

    slots: str
    en: str
    de: str
    fr: str

    def __call__(self, rng: random.Random) -> Sentence:
        """Draw one sentence."""
        texts = (self.en, self.de, self.fr)
        words = _drawn(self.slots, rng)
        return Sentence(*map(_filled, texts, words))


SHAPES = (
    Shape(
        "name=NAMES day=DAYS start+end=CITIES",
        "{name} travels from {start} to {end} on {day}.",
        "{name} reist am {day} von {start} nach {end}.",
        "{name} voyage de {start} à {end} {day}.",
    ),
    Shape(
        "noun=NOUNS adj=ADJECTIVES place=PLACES",
        "The {adj} {noun} is {place}.",
        "{noun.the} {adj}e {noun} ist {place}.",
        "{noun.the} {adj} est {place}.",
    ),
    Shape(
        "name=NAMES noun=NOUNS count=2-60 price=2-60",
        "{name} buys {count} {noun.many} for {price} euros.",
        "{name} kauft {count} {noun.many} für {price} Euro.",
        "{name} achète {count} {noun.many} pour {price} euros.",
    ),
    Shape(
        "hour=2-12 place=PLACES day=DAYS",
        "On {day} we meet at {hour} o'clock {place}.",
        "Am {day} treffen wir uns um {hour} Uhr {place}.",
        "{day} nous avons rendez-vous à {hour} heures {place}.",
    ),
    Shape(
        "noun=NOUNS adj=ADJECTIVES name=NAMES",
        "Where is my {adj} {noun}, {name}?",
        "Wo ist {noun.my} {adj}{noun.strong} {noun}, {name}?",
        "Où est {noun.my} {adj}, {name} ?",
    ),
    Shape(
        "first+second=NAMES verb=INFINITIVES noun=NOUNS",
        "{first} and {second} want to {verb} the {noun} tomorrow.",
        "{first} und {second} wollen morgen {noun.object} {noun} {verb}.",
        "{first} et {second} veulent {verb} {noun.the} {noun} demain.",
    ),
    Shape(
        "city=CITIES day=DAYS first+second=WEATHER",
        "The weather in {city} was {first} and {second} on {day}.",
        "Das Wetter in {city} war am {day} {first} und {second}.",
        "Le temps à {city} était {first} et {second} {day}.",
    ),
    Shape(
        "person=PEOPLE verb=VERBS time=TIMES place=PLACES",
        "{person} often {verb} {place} {time}.",
        "{person} {verb} {time} oft {place}.",
        "{person} {verb} souvent {place} {time}.",
    ),
    Shape(
        "city=CITIES wait=2-60 platform=2-20",
        "The train to {city} leaves in {wait} minutes from platform "
        "{platform}.",
        "Der Zug nach {city} fährt in {wait} Minuten von Gleis {platform} ab.",
        "Le train pour {city} part dans {wait} minutes du quai {platform}.",
    ),
    Shape(
        "noun=NOUNS place=PLACES name=NAMES",
        "Please put the {noun} {place}, {name}.",
        "Bitte bring {noun.object} {noun} {place.whither}, {name}.",
        "Mets {noun.the} {noun} {place} s'il te plaît, {name}.",
    ),
)
UNSEEN_SHAPES = (
    Shape(
        "noun+other=NOUNS city=CITIES adj=ADJECTIVES",
        "We want to sell the {noun} and the {adj} {other} in {city}.",
        "Wir wollen {noun.object} {noun} und {other.object} {adj}{other.weak} "
        "{other} in {city} verkaufen.",
        "Nous voulons vendre {noun.the} {noun} et {other.the} {adj} à {city}.",
    ),
    Shape(
        "noun=NOUNS count=2-60 person=PEOPLE day=DAYS",
        "Tomorrow {person} buys {count} {noun.many}, and on {day} the bag is "
        "heavy.",
        "Morgen kauft {person} {count} {noun.many}, und am {day} ist die "
        "Tasche schwer.",
        "Demain {person} achète {count} {noun.many}, et {day} le sac est "
        "lourd.",
    ),
    Shape(
        "name=NAMES person=PEOPLE verb=VERBS hour=2-12",
        "At {hour} o'clock {name} {verb} and {person} often travels to Paris.",
        "Um {hour} Uhr {verb} {name} und {person} reist oft nach Paris.",
        "À {hour} heures {name} {verb} et {person} voyage souvent à Paris.",
    ),
    Shape(
        "first+second+third=CITIES count=2-60",
        "From {first}, {count} trains leave for {second} and {third}.",
        "Von {first} fahren {count} Züge nach {second} und {third} ab.",
        "De {first} {count} trains partent pour {second} et {third}.",
    ),
)
