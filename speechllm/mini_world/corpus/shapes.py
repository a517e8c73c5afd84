"""The shapes of the mini world's sentences, with their translations.

Ten shapes with slots, and four more that only the out-of-domain set uses.
Each is a function that draws the words for its slots and puts them together
in English, German and French, with gender, case and word order right.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from num2words import num2words

from speechllm.mini_world.corpus import lexicon

LANGUAGES = ("en", "de", "fr")


@dataclass(frozen=True)
class Sentence:
    """One meaning in three languages, with case and punctuation."""

    en: str
    de: str
    fr: str


class _Noun:
    """A noun and the small words that agree with it."""

    ARTICLE = {"m": "der", "f": "die", "n": "das"}
    OBJECT = {"m": "den", "f": "die", "n": "das"}
    POSSESSIVE = {"m": "mein", "f": "meine", "n": "mein"}
    STRONG = {"m": "er", "f": "e", "n": "es"}
    WEAK_OBJECT = {"m": "en", "f": "e", "n": "e"}

    def __init__(self, row):
        self.en, self.en_many, self.de, gender, self.de_many = row[:5]
        self.fr, self.fr_gender, self.fr_many = row[5:]
        self.the_de = self.ARTICLE[gender]
        self.object_de = self.OBJECT[gender]
        self.my_de = self.POSSESSIVE[gender]
        self.strong = self.STRONG[gender]
        self.object_ending = self.WEAK_OBJECT[gender]
        self.the_fr = "la" if self.fr_gender == "f" else "le"
        self.my_fr = "ma" if self.fr_gender == "f" else "mon"

    def french(self, adjective: tuple) -> str:
        """Noun and adjective in French, each in its place."""
        word = adjective[3 if self.fr_gender == "f" else 2]
        before = adjective[4] == "before"
        return f"{word} {self.fr}" if before else f"{self.fr} {word}"


def _number(rng, low=2, high=60):
    """A number in words: English, German, French."""
    value = rng.randint(low, high)
    return _in_words(value)


@cache
def _in_words(value):
    return [num2words(value, lang=language) for language in LANGUAGES]


def _noun(rng):
    return _Noun(rng.choice(lexicon.NOUNS))


def _capital(text):
    return text[0].upper() + text[1:]


def _travel(rng):
    name, day = rng.choice(lexicon.NAMES), rng.choice(lexicon.DAYS)
    start, end = rng.sample(lexicon.CITIES, 2)
    return Sentence(
        f"{name} travels from {start[0]} to {end[0]} on {day[0]}.",
        f"{name} reist am {day[1]} von {start[1]} nach {end[1]}.",
        f"{name} voyage de {start[2]} à {end[2]} {day[2]}.",
    )


def _thing_is_there(rng):
    noun, adj = _noun(rng), rng.choice(lexicon.ADJECTIVES)
    place = rng.choice(lexicon.PLACES)
    return Sentence(
        f"The {adj[0]} {noun.en} is {place[0]}.",
        f"{_capital(noun.the_de)} {adj[1]}e {noun.de} ist {place[1]}.",
        f"{_capital(noun.the_fr)} {noun.french(adj)} est {place[3]}.",
    )


def _purchase(rng):
    name, noun = rng.choice(lexicon.NAMES), _noun(rng)
    count, price = _number(rng), _number(rng)
    return Sentence(
        f"{name} buys {count[0]} {noun.en_many} for {price[0]} euros.",
        f"{name} kauft {count[1]} {noun.de_many} für {price[1]} Euro.",
        f"{name} achète {count[2]} {noun.fr_many} pour {price[2]} euros.",
    )


def _meeting(rng):
    hour, place = _number(rng, 2, 12), rng.choice(lexicon.PLACES)
    day = rng.choice(lexicon.DAYS)
    return Sentence(
        f"On {day[0]} we meet at {hour[0]} o'clock {place[0]}.",
        f"Am {day[1]} treffen wir uns um {hour[1]} Uhr {place[1]}.",
        f"{_capital(day[2])} nous avons rendez-vous à {hour[2]} heures "
        f"{place[3]}.",
    )


def _question(rng):
    noun, adj = _noun(rng), rng.choice(lexicon.ADJECTIVES)
    name = rng.choice(lexicon.NAMES)
    return Sentence(
        f"Where is my {adj[0]} {noun.en}, {name}?",
        f"Wo ist {noun.my_de} {adj[1]}{noun.strong} {noun.de}, {name}?",
        f"Où est {noun.my_fr} {noun.french(adj)}, {name} ?",
    )


def _wish(rng):
    first, second = rng.sample(lexicon.NAMES, 2)
    verb, noun = rng.choice(lexicon.INFINITIVES), _noun(rng)
    return Sentence(
        f"{first} and {second} want to {verb[0]} the {noun.en} tomorrow.",
        f"{first} und {second} wollen morgen {noun.object_de} {noun.de} "
        f"{verb[1]}.",
        f"{first} et {second} veulent {verb[2]} {noun.the_fr} {noun.fr} "
        f"demain.",
    )


def _weather(rng):
    city, day = rng.choice(lexicon.CITIES), rng.choice(lexicon.DAYS)
    first, second = rng.sample(lexicon.WEATHER, 2)
    return Sentence(
        f"The weather in {city[0]} was {first[0]} and {second[0]} on {day[0]}.",
        f"Das Wetter in {city[1]} war am {day[1]} {first[1]} und {second[1]}.",
        f"Le temps à {city[2]} était {first[2]} et {second[2]} {day[2]}.",
    )


def _habit(rng):
    person, verb = rng.choice(lexicon.PEOPLE), rng.choice(lexicon.VERBS)
    time, place = rng.choice(lexicon.TIMES), rng.choice(lexicon.PLACES)
    return Sentence(
        f"{person[0]} often {verb[0]} {place[0]} {time[0]}.",
        f"{person[1]} {verb[1]} {time[1]} oft {place[1]}.",
        f"{person[2]} {verb[2]} souvent {place[3]} {time[2]}.",
    )


def _train(rng):
    city, wait, platform = (
        rng.choice(lexicon.CITIES),
        _number(rng),
        _number(rng, 2, 20),
    )
    return Sentence(
        f"The train to {city[0]} leaves in {wait[0]} minutes from platform "
        f"{platform[0]}.",
        f"Der Zug nach {city[1]} fährt in {wait[1]} Minuten von Gleis "
        f"{platform[1]} ab.",
        f"Le train pour {city[2]} part dans {wait[2]} minutes du quai "
        f"{platform[2]}.",
    )


def _request(rng):
    noun, place = _noun(rng), rng.choice(lexicon.PLACES)
    name = rng.choice(lexicon.NAMES)
    return Sentence(
        f"Please put the {noun.en} {place[0]}, {name}.",
        f"Bitte bring {noun.object_de} {noun.de} {place[2]}, {name}.",
        f"Mets {noun.the_fr} {noun.fr} {place[3]} s'il te plaît, {name}.",
    )


def _sale(rng):
    noun, other = (_Noun(row) for row in rng.sample(lexicon.NOUNS, 2))
    city, adj = rng.choice(lexicon.CITIES), rng.choice(lexicon.ADJECTIVES)
    return Sentence(
        f"We want to sell the {noun.en} and the {adj[0]} {other.en} in "
        f"{city[0]}.",
        f"Wir wollen {noun.object_de} {noun.de} und {other.object_de} "
        f"{adj[1]}{other.object_ending} {other.de} in {city[1]} verkaufen.",
        f"Nous voulons vendre {noun.the_fr} {noun.fr} et {other.the_fr} "
        f"{other.french(adj)} à {city[2]}.",
    )


def _shop(rng):
    noun, count = _noun(rng), _number(rng)
    person, day = rng.choice(lexicon.PEOPLE), rng.choice(lexicon.DAYS)
    return Sentence(
        f"Tomorrow {person[0].lower()} buys {count[0]} {noun.en_many}, and on "
        f"{day[0]} the bag is heavy.",
        f"Morgen kauft {_lower(person[1])} {count[1]} {noun.de_many}, und am "
        f"{day[1]} ist die Tasche schwer.",
        f"Demain {person[2].lower()} achète {count[2]} {noun.fr_many}, et "
        f"{day[2]} le sac est lourd.",
    )


def _company(rng):
    name, person = rng.choice(lexicon.NAMES), rng.choice(lexicon.PEOPLE)
    verb, hour = rng.choice(lexicon.VERBS), _number(rng, 2, 12)
    return Sentence(
        f"At {hour[0]} o'clock {name} {verb[0]} and {person[0].lower()} often "
        f"travels to Paris.",
        f"Um {hour[1]} Uhr {verb[1]} {name} und {_lower(person[1])} reist oft "
        f"nach Paris.",
        f"À {hour[2]} heures {name} {verb[2]} et {person[2].lower()} voyage "
        f"souvent à Paris.",
    )


def _cities(rng):
    first, second, third = rng.sample(lexicon.CITIES, 3)
    count = _number(rng)
    return Sentence(
        f"From {first[0]}, {count[0]} trains leave for {second[0]} and "
        f"{third[0]}.",
        f"Von {first[1]} fahren {count[1]} Züge nach {second[1]} und "
        f"{third[1]} ab.",
        f"De {first[2]} {count[2]} trains partent pour {second[2]} et "
        f"{third[2]}.",
    )


def _lower(text):
    """Lower the first letter only: German nouns keep their capitals."""
    return text[0].lower() + text[1:]


SHAPES = (
    _travel,
    _thing_is_there,
    _purchase,
    _meeting,
    _question,
    _wish,
    _weather,
    _habit,
    _train,
    _request,
)
UNSEEN_SHAPES = (_sale, _shop, _company, _cities)
