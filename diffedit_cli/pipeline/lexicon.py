"""Words and compounds by what they do in a prompt, in lower case; nouns are in the singular."""

from __future__ import annotations

import re


def singular(noun: str) -> str:
    """Returns an approximate singular, good enough to find the same noun again."""
    if noun.endswith("ies") and len(noun) > 4:
        return noun[:-3] + "y"
    if noun.endswith(("sses", "xes", "ches", "shes")):
        return noun[:-2]
    return noun[:-1] if noun.endswith("s") and not noun.endswith(("ss", "us", "is")) and len(noun) > 3 else noun


def stem(verb: str) -> str:
    """Returns the stem of a verb: sitting, sits -> sit; lying, lies -> li."""
    found = re.sub(r"(?:ing|ed|es|s)$", "", verb)
    found = found[:-1] if found[-2:-1] == found[-1:] else found
    return found[:-1] + "i" if found.endswith("y") else found


def _listed(words: str) -> frozenset[str]:
    return frozenset(words.split())


def _nouns(words: str) -> frozenset[str]:
    return frozenset(map(singular, words.split()))


_MADE = "made dressed clad carved built knitted woven sculpted cast crafted moulded molded sewn constructed"
_FILLED, _COVERED = "filled crowded packed stuffed loaded", "covered coated smeared"
COMPOUND = re.compile(
    r"\b(?:in front of|in the middle of|on top of|next to|close to|surrounded by|in the (?:style|manner) of|"
    rf"(?:full|out) of|(?:{f'{_FILLED} {_COVERED}'.replace(' ', '|')}) (?:in|with|by)|"
    r"(?:dressed|clad|carved|sculpted|cast) in|"
    rf"(?:{_MADE.replace(' ', '|')}) (?:of|from|out of)|"
    r"(?:pixel|line|pop|concept|clip|street|folk|op) art|art (?:deco|nouveau)|low poly|comic book|stained glass|"
    r"van gogh|studio ghibli|(?:oil|acrylic|ink|pencil|charcoal) on (?:canvas|paper)|"
    r"upside down|(?:side by|hand in|back to|face to) (?:side|hand|back|face)|all fours|lotus position)\b"
)
MADE = frozenset(f"{verb}_{link}" for verb in _MADE.split() for link in ("of", "from", "out_of", "in"))
FULL, COVERED = (
    frozenset(f"{verb}_{link}" for verb in verbs.split() for link in ("in", "with", "by"))
    for verbs in (_FILLED, _COVERED)
)

# function words

DETERMINERS = _listed("a an the this that these those some his her its their my your our")
PRONOUNS = _listed("it him her them himself herself itself themselves each other")
COPULAS = _listed("is are was were be being has have")
SEEMING = _listed("look looks seem seems appear appears feel feels turn turns become becomes remain remains stay stays")
JOINTS = _listed(", and or but while that which who whose plus")
DIRECTIONS = _listed("up down")
NEIGHBOUR = DIRECTIONS | _listed("near beside next_to close_to")  # a place before scenery, a thing before anything else
PLACING = NEIGHBOUR | _listed(
    "on in at under over above below beneath behind by inside outside against along across through around among "
    "amongst between beyond into onto upon amid within in_front_of in_the_middle_of on_top_of surrounded_by during "
    "underneath before"
)
ABOUT = _listed("behind above overhead around below")  # after what it says: with mountains behind it
TRAILED = ABOUT | DIRECTIONS | _listed("on off out")  # shutters down, lights off
STYLE_LINKS = _listed("in_the_style_of in_the_manner_of")
LINKS = (
    MADE
    | FULL
    | COVERED
    | STYLE_LINKS
    | _listed("with without of full_of for from to toward towards off away like as out out_of")
)
CUTS = COPULAS | JOINTS | PLACING | LINKS
LITTLE = CUTS | DETERMINERS | PRONOUNS

# verbs, and what is said of a thing

_BASE = (
    "sit stand lie lay run walk jump fly sleep hold wear ride play look eat drink swim smile laugh dance read drive "
    "carry hang rest lean climb sing cook float grow shine wait work kick throw catch pull push fall rise burn melt "
    "bloom cross graze bark hug kiss write paint draw watch stare gaze point wave bow kneel crouch crawl roll spin "
    "leap fight shake salute raise bend stretch lift gallop trot hover glide dive surf ski skate"
)
AIMS = _listed("to toward towards at from off into onto out out_of")  # what a pose is directed at
FINITE = _listed("says reads sits stands lies lays flies carries sat stood lit seen") | {
    verb + ("es" if verb.endswith(("ss", "sh", "ch")) else "s") for verb in _BASE.split() if not verb.endswith("y")
}
PLAIN_VERBS = _listed(_BASE)  # after a plural
PLURALS = _listed("people men women children kids police sheep fish geese mice")
TRANSITIVE = _listed("eating holding wearing carrying drinking riding reading pulling pushing catching")
NO_VERBS = _listed(
    "building painting drawing king ring wing thing evening morning string spring wedding ceiling clothing earring "
    "lightning pudding dumpling duckling swing railing red bed sled shed seed weed reed breed moped icing frosting "
    "filling topping landing flooring sibling sapling offspring"
)
SHOWING = frozenset(  # stems of verbs whose object is a look: a screen showing a map
    map(stem, _listed("showing displaying depicting featuring says"))
)
STATES = _listed(
    "upright upside_down asleep awake alone ajar shut open opened closed folded spread raised lowered extended "
    "outstretched bent crossed clenched unlit tilted barefoot naked still airborne stuck hidden frozen torn"
)
"""Words that say of a noun before them how it is: wings spread, the door ajar."""
POSES = _nouns(
    "handstand headstand splits squat pose posture position lotus_position stance somersault cartwheel backflip "
    "flip salute bow curtsy embrace hug crouch plank pirouette arabesque all_fours tiptoe haunches bloom bud"
)
BODY = _nouns(
    "eyes hair mouth face ears nose arms hands legs foot feet head tail wings fur skin tooth teeth tongue lips "
    "smile frown expression paws shoulders knees neck grin beak fist cheeks nails feathers braids ponytail beard "
    "moustache mustache haircut curls cut bun tear wrinkle freckle look gaze finger thumb"
)
GROWN = _nouns("wings horns antlers tail beard moustache braids ponytail")  # parts that a body may lack
POSTURE = POSES | _listed(  # to the left: not a place
    "air left right back side camera viewer belly stomach distance straight forward forwards backward backwards "
    "sideways ahead pocket hip lap"
)
_COUNTS = "one two three four five six seven eight nine ten several many"
NUMBERS = {word: number for number, word in enumerate(_COUNTS.split(), start=1)}
ADVERBS = _listed("side_by_side hand_in_hand back_to_back face_to_face")
EMPTY = _listed("empty bare deserted vacant unoccupied abandoned")

# looks

COLOURS = _listed(
    "red orange yellow green blue purple violet pink brown black white grey gray golden silver gold beige turquoise "
    "teal maroon navy crimson scarlet magenta cyan lavender lilac indigo olive cream ivory khaki burgundy mint "
    "peach amber coral ochre emerald mauve bronze copper rust"
)
PATTERNS = _nouns("colors colours stripes spots dots patterns texture finish hue shade")
MATERIALS = _nouns(
    "wood wooden metal plastic glass stone brick paper leather marble bronze steel iron ceramic concrete wool "
    "woollen silk cotton gold silver ice snow sand clay wax chocolate cardboard porcelain crystal jade copper "
    "rubber felt straw denim velvet lace bamboo granite obsidian diamond gingerbread lego fabric foam tin aluminium "
    "aluminum ivory amber papier-mache bone amethyst ruby sapphire rope yarn petals pearl wicker terracotta plaster "
    "mud jelly candy water fire lava flowers leaves"
)
_LOOKS = _listed(
    "dark light bright pale colorful colourful big small large little tiny huge giant tall short long thin thick "
    "fat slim wide old young new ancient modern happy sad angry calm cute beautiful pretty ugly fluffy furry wet "
    "dry hot cold warm clean dirty empty full broken open closed round square fresh ripe rotten sleepy tired scared "
    "surprised worried serious half"
)
ADJECTIVES = COLOURS | NUMBERS.keys() | _LOOKS | _listed("wooden metal plastic glass stone brick paper leather marble")
TRAILING = _LOOKS - _listed("light square round giant young")
"""Adjectives that are not nouns: after a noun they say how it is (leaves fresh from the oven)."""
CLOTHES = _nouns(
    "dress shirt t-shirt blouse jacket coat suit spacesuit tuxedo uniform costume skirt trousers pants jeans shorts "
    "scarf hat cap glasses sunglasses armor armour kimono sweater hoodie clothes clothing outfit pyjamas pajamas "
    "gown robe raincoat headscarf apron vest sari overalls swimsuit bikini boots shoes socks gloves goggles helmet "
    "sandals sneakers heels beanie turban veil mask cape shawl cloak blazer tie"
)

# places

WHERE = _listed(  # places without a preposition
    "indoors outdoors underwater downtown offshore rains snows raining snowing"
)
PASSING = frozenset(  # stems of verbs whose object is a place, if it is scenery
    map(stem, _listed("passing crossing overlooking facing exploring visiting wandering roaming leaving entering"))
)
SCENERY = _nouns(
    "sky sea ocean lake river beach shore coast field meadow forest woods jungle desert mountain hill valley city "
    "town village street road park garden room wall landscape snow water sunset night light weather cliff building "
    "balcony terrace kitchen bedroom bathroom library cafe restaurant bar shop store market mall school church "
    "cathedral castle palace temple museum station platform airport harbor harbour port pier dock bridge tunnel "
    "stadium arena gym pool playground yard backyard farm vineyard orchard plain prairie savanna savannah steppe "
    "tundra glacier iceberg ice canyon cave volcano waterfall reef lagoon bay cove island coastline seaside "
    "shoreline dune swamp marsh pond stream creek canal rain storm thunderstorm fog mist haze snowstorm blizzard "
    "sunrise dawn dusk noon morning evening afternoon midnight twilight moonlight day daylight daytime winter "
    "summer autumn spring space galaxy planet moon star nebula cosmos universe skyline skyscraper alley avenue "
    "boulevard plaza highway railway track trail path lane driveway sidewalk pavement rooftop attic basement "
    "hallway corridor lobby office studio stage theatre theater circus carnival battlefield ruins graveyard "
    "cemetery hospital factory warehouse garage gallery classroom courtyard greenhouse rainforest grass lawn "
    "hillside rocks countryside horizon cloud wave flames fire smoke fireworks paddy ground floor cabin tree window "
    "fireplace"
)
SURFACES = _nouns("table desk counter shelf sofa couch bed bench chair rug carpet")  # what things stand on: a place
SKY = _nouns("sky clouds sunset sunrise fog mist rain storm")  # a place even after "with"
BACKGROUND = _nouns("background backdrop view")

# media and styles

PHOTOGRAPHS = _listed("photo photograph picture image")
PLAIN = PHOTOGRAPHS | _listed(  # words for a photograph of any quality, which is not a style
    "portrait close-up closeup shot view scene snapshot realistic high quality "
    "high-quality detailed real good nice beautiful color colour 35mm 50mm 85mm dslr bokeh 4k 8k hd uhd"
)
PICTURED = PHOTOGRAPHS | _listed("print logo")
PRINTED = _listed("printed painted drawn written embroidered engraved")
MEDIA = PLAIN | _nouns(
    "painting watercolor watercolour drawing sketch illustration cartoon anime render rendering engraving etching "
    "lithograph woodcut mosaic fresco comic comic_book manga caricature pixel_art line_art pop_art concept_art art "
    "artwork poster doodle collage print graffiti clip_art street_art folk_art op_art blueprint stained_glass "
    "tapestry embroidery stencil charcoal pastel gouache linocut papercut hologram mural emoji pictogram silhouette "
    "screenshot x-ray wireframe claymation storyboard tattoo polaroid daguerreotype postcard mockup sticker logo "
    "icon scan oil_on_canvas acrylic_on_canvas ink_on_paper pencil_on_paper charcoal_on_paper"
)
STYLES = _listed(
    "style anime comic sketched cartoon manga cubist cubism impressionist impressionism surrealist surrealism "
    "cyberpunk steampunk pixel_art watercolor watercolour line_art pop_art clip_art ukiyo-e minimalist "
    "photorealistic monochrome sepia aesthetic tone tones realism abstract low_poly isometric vaporwave synthwave "
    "solarpunk noir baroque renaissance rococo art_deco art_nouveau ghibli studio_ghibli disney pixar van_gogh "
    "psychedelic bauhaus voxel 8-bit 16-bit cel-shaded hand-drawn expressionist expressionism pointillist "
    "pointillism fauvist fauvism romanticism futurism futurist constructivism dadaism minimalism photorealism "
    "hyperrealism hyperrealistic crayon crayons charcoal gouache pastel pastels embroidery claymation impasto "
    "brushstrokes"
)
DRAWN = _listed("drawn sketched rendered illustrated depicted stylized stylised")
DRAWN_BY = _listed("by with as like")
LIKENESS = _listed("statue sculpture figurine figure toy model doll group pair couple herd flock bunch pile piece bud")
