"""Who the drawn people are: traits that a seed gives, and nothing of how they are drawn.

A seed gives a person, always the same, and other seeds give people who differ in several traits.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from enum import StrEnum
from random import Random

Colour = tuple[int, int, int]


class HairStyle(StrEnum):
    """How the hair is worn."""

    BALD = "bald"
    SHORT = "short"
    SIDE_PART = "side part"
    LONG = "long"
    BUN = "bun"
    CURLY = "curly"
    MOHAWK = "mohawk"
    BOB = "bob"


class Glasses(StrEnum):
    """What is worn over the eyes."""

    NONE = "none"
    ROUND = "round"
    SQUARE = "square"
    DARK = "dark"


class Beard(StrEnum):
    """What grows around the mouth."""

    NONE = "none"
    MOUSTACHE = "moustache"
    FULL = "full"


class Pattern(StrEnum):
    """How the shirt's two colours lie."""

    PLAIN = "plain"
    HORIZONTAL = "horizontal stripes"
    VERTICAL = "vertical stripes"


@dataclass(frozen=True, slots=True)
class Person:
    """All that makes a drawn person recognisable.

    Attributes:
        skin: Colour of the skin.
        hair: Colour of hair, brows and beard.
        style: How the hair is worn.
        glasses: What is worn over the eyes.
        beard: What grows around the mouth.
        face_width: Width of the head in head heights.
        eye_distance: Distance of the eyes in head widths.
        nose: Length of the nose in head heights.
        lips: Colour of the mouth.
        shirt: The shirt's first colour.
        stripes: Its second colour; the first one again where the pattern is plain.
        pattern: How the two lie.
    """

    skin: Colour
    hair: Colour
    style: HairStyle
    glasses: Glasses
    beard: Beard
    face_width: float
    eye_distance: float
    nose: float
    lips: Colour
    shirt: Colour
    stripes: Colour
    pattern: Pattern


# From light to dark; a person's skin lies between two of these.
_SKINS: tuple[Colour, ...] = (
    (247, 218, 196),
    (232, 190, 160),
    (205, 152, 115),
    (165, 110, 75),
    (118, 74, 50),
    (74, 46, 34),
)
_HAIRS: tuple[Colour, ...] = (
    (22, 18, 20),
    (62, 40, 28),
    (112, 70, 38),
    (150, 52, 28),
    (214, 172, 92),
    (150, 150, 156),
    (226, 224, 220),
    (60, 90, 190),
    (220, 80, 150),
)


def make_person(seed: int) -> Person:
    """Return the person of a seed; other seeds give people who differ in several traits."""
    random = Random(f"person {seed}")
    shade = random.uniform(0, len(_SKINS) - 1.001)
    skin = between(_SKINS[int(shade)], _SKINS[int(shade) + 1], shade % 1)
    shirt = _vivid(random)
    pattern = random.choice(tuple(Pattern))
    return Person(
        skin=_jittered(skin, random, 6),
        hair=_jittered(random.choice(_HAIRS), random, 12),
        style=random.choice(tuple(HairStyle)),
        glasses=random.choices(tuple(Glasses), weights=(4, 2, 2, 2))[0],
        beard=random.choices(tuple(Beard), weights=(4, 1, 2))[0],
        face_width=random.uniform(0.66, 0.92),
        eye_distance=random.uniform(0.38, 0.5),
        nose=random.uniform(0.1, 0.2),
        lips=_jittered(between(skin, (190, 40, 60), 0.65), random, 10),
        shirt=shirt,
        stripes=shirt if pattern is Pattern.PLAIN else _far_from(shirt, random),
        pattern=pattern,
    )


def between(one: Colour, other: Colour, share: float) -> Colour:
    """Return the colour `share` of the way from one to the other."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return (red, green, blue)


def _jittered(colour: Colour, random: Random, by: int) -> Colour:
    red, green, blue = (min(255, max(0, part + random.randint(-by, by))) for part in colour)
    return (red, green, blue)


def _vivid(random: Random) -> Colour:
    hue, saturation, value = random.random(), random.uniform(0.35, 0.95), random.uniform(0.35, 0.95)
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, value))
    return (red, green, blue)


def _far_from(colour: Colour, random: Random) -> Colour:
    """Return a colour whose stripes are seen on `colour`."""
    while True:
        other = _vivid(random)
        if sum(abs(a - b) for a, b in zip(colour, other, strict=True)) >= 200:
            return other
