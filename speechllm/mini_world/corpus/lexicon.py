"""Words of the mini world, each with its German and French forms.

A line holds one word; its columns are explained above each table. The words
are chosen so that the translation of a sentence is the sum of its parts: no
French elision, no noun whose gender would change a verb.
"""


def _table(text):
    """Cut a table written as lines of ``a | b | c`` into tuples."""
    lines = text.strip().splitlines()
    return [tuple(c.strip() for c in line.split("|")) for line in lines]


# People: written alike in the three languages.
NAMES = (
    "Anna Paul Maria Peter Julia Thomas Laura Martin Sarah David Emma Oscar "
    "Clara Simon Nina Victor Helen Frank Sophie Daniel Lucy Robert Eva Max"
).split()

# English | German | French
CITIES = _table(
    """
    London | London | Londres
    Paris | Paris | Paris
    Berlin | Berlin | Berlin
    Vienna | Wien | Vienne
    Rome | Rom | Rome
    Munich | München | Munich
    Cologne | Köln | Cologne
    Geneva | Genf | Genève
    Brussels | Brüssel | Bruxelles
    Lisbon | Lissabon | Lisbonne
    Moscow | Moskau | Moscou
    Warsaw | Warschau | Varsovie
    Prague | Prag | Prague
    Zurich | Zürich | Zurich
    Hamburg | Hamburg | Hambourg
    Madrid | Madrid | Madrid
    Milan | Mailand | Milan
    Dresden | Dresden | Dresde
    """
)

# English | plural | German | gender | plural | French | gender | plural
NOUNS = _table(
    """
    table | tables | Tisch | m | Tische | table | f | tables
    lamp | lamps | Lampe | f | Lampen | lampe | f | lampes
    book | books | Buch | n | Bücher | livre | m | livres
    chair | chairs | Stuhl | m | Stühle | chaise | f | chaises
    bottle | bottles | Flasche | f | Flaschen | bouteille | f | bouteilles
    picture | pictures | Bild | n | Bilder | tableau | m | tableaux
    key | keys | Schlüssel | m | Schlüssel | clef | f | clefs
    bag | bags | Tasche | f | Taschen | sac | m | sacs
    shirt | shirts | Hemd | n | Hemden | chemise | f | chemises
    hat | hats | Hut | m | Hüte | chapeau | m | chapeaux
    clock | clocks | Uhr | f | Uhren | pendule | f | pendules
    knife | knives | Messer | n | Messer | couteau | m | couteaux
    coat | coats | Mantel | m | Mäntel | manteau | m | manteaux
    flower | flowers | Blume | f | Blumen | fleur | f | fleurs
    bicycle | bicycles | Fahrrad | n | Fahrräder | vélo | m | vélos
    letter | letters | Brief | m | Briefe | lettre | f | lettres
    guitar | guitars | Gitarre | f | Gitarren | guitare | f | guitares
    boat | boats | Boot | n | Boote | bateau | m | bateaux
    carpet | carpets | Teppich | m | Teppiche | tapis | m | tapis
    cup | cups | Tasse | f | Tassen | tasse | f | tasses
    """
)

# English | German stem | French masculine | feminine | before the noun?
ADJECTIVES = _table(
    """
    red | rot | rouge | rouge | after
    green | grün | vert | verte | after
    white | weiß | blanc | blanche | after
    black | schwarz | noir | noire | after
    blue | blau | bleu | bleue | after
    heavy | schwer | lourd | lourde | after
    modern | modern | moderne | moderne | after
    clean | sauber | propre | propre | after
    strange | seltsam | bizarre | bizarre | after
    small | klein | petit | petite | before
    big | groß | grand | grande | before
    pretty | hübsch | joli | jolie | before
    bad | schlecht | mauvais | mauvaise | before
    """
)

# English | German, where | German, whither | French
PLACES = _table(
    """
    in the kitchen | in der Küche | in die Küche | dans la cuisine
    in the garden | im Garten | in den Garten | dans le jardin
    in the room | im Zimmer | ins Zimmer | dans la chambre
    at the station | am Bahnhof | an den Bahnhof | à la gare
    behind the house | hinter dem Haus | hinter das Haus | derrière la maison
    under the bridge | unter der Brücke | unter die Brücke | sous le pont
    near the window | am Fenster | ans Fenster | près de la fenêtre
    in the car | im Auto | ins Auto | dans la voiture
    beside the door | neben der Tür | neben die Tür | à côté de la porte
    in the office | im Büro | ins Büro | dans le bureau
    on the roof | auf dem Dach | auf das Dach | sur le toit
    in front of the church | vor der Kirche | vor die Kirche | devant l'église
    """
)

DAYS = _table(
    """
    Monday | Montag | lundi
    Tuesday | Dienstag | mardi
    Wednesday | Mittwoch | mercredi
    Thursday | Donnerstag | jeudi
    Friday | Freitag | vendredi
    Saturday | Samstag | samedi
    Sunday | Sonntag | dimanche
    """
)

# English | German | French: parts of the day
TIMES = _table(
    """
    in the morning | am Morgen | le matin
    in the afternoon | am Nachmittag | l'après-midi
    in the evening | am Abend | le soir
    at night | in der Nacht | la nuit
    """
)

# English | German | French: people of the family, with their possessive
PEOPLE = _table(
    """
    my brother | mein Bruder | mon frère
    my sister | meine Schwester | ma sœur
    my father | mein Vater | mon père
    my mother | meine Mutter | ma mère
    the doctor | der Arzt | le médecin
    the teacher | der Lehrer | le professeur
    the neighbour | der Nachbar | le voisin
    the cook | der Koch | le cuisinier
    """
)

# English | German | French: third person, nothing after it
VERBS = _table(
    """
    sings | singt | chante
    works | arbeitet | travaille
    dances | tanzt | danse
    reads | liest | lit
    sleeps | schläft | dort
    waits | wartet | patiente
    laughs | lacht | rit
    paints | malt | peint
    """
)

# English | German | French: infinitives that take an object
INFINITIVES = _table(
    """
    see | sehen | voir
    buy | kaufen | acheter
    sell | verkaufen | vendre
    find | finden | trouver
    clean | putzen | nettoyer
    show | zeigen | montrer
    """
)

# English | German | French: weather
WEATHER = _table(
    """
    cold | kalt | froid
    warm | warm | chaud
    wonderful | wunderbar | magnifique
    terrible | schrecklich | terrible
    cloudy | bewölkt | nuageux
    dry | trocken | sec
    """
)
