"""Draws the places in which made-up people do things, without the people.

Each scene has colours of its own, so that it is told from the others at a glance, and details that
move with the seed, so that it cannot be learnt by heart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from random import Random

from PIL import Image, ImageDraw

from lynx_engine.training.people import Colour


class Scene(StrEnum):
    """Where a clip plays."""

    PARK = "park"
    BEACH = "beach"
    NIGHT_CITY = "night city"
    ROOM = "room"
    SNOW = "snow"
    DESERT = "desert"
    FOREST = "forest"
    STAGE = "stage"


def draw_scene(scene: Scene, *, side: int, random: Random) -> Image.Image:
    """Return an RGB picture of a scene.

    Args:
        scene: Where.
        side: Width and height in pixels.
        random: Places the details.
    """
    picture = Image.new("RGB", (side, side))
    _SCENES[scene](_Pen(picture), random)
    return picture


class _Pen:
    """Draws in fractions of a square picture's side, x to the right and y down."""

    def __init__(self, picture: Image.Image) -> None:
        self._pen = ImageDraw.Draw(picture)
        self._side = picture.width

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        self._pen.rectangle(self._scaled(left, top, right, bottom), fill=colour)

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        self._pen.ellipse(self._scaled(x - radius, y - radius, x + radius, y + radius), fill=colour)

    def shape(self, points: list[tuple[float, float]], colour: Colour) -> None:
        side = self._side
        self._pen.polygon([(x * side, y * side) for x, y in points], fill=colour)

    def _scaled(self, *places: float) -> tuple[float, ...]:
        return tuple(place * self._side for place in places)


def _park(pen: _Pen, random: Random) -> None:
    pen.box(0, 0, 1, 1, (138, 200, 255))
    pen.box(0, random.uniform(0.58, 0.66), 1, 1, (60, 150, 62))
    for x in (random.uniform(0.02, 0.18), random.uniform(0.82, 0.98)):
        pen.box(x - 0.02, 0.45, x + 0.02, 0.66, (104, 70, 40))
        pen.disc(x, random.uniform(0.34, 0.42), 0.13, (34, 112, 40))


def _beach(pen: _Pen, random: Random) -> None:
    horizon = random.uniform(0.46, 0.52)
    pen.box(0, 0, 1, 1, (126, 196, 255))
    pen.disc(random.uniform(0.1, 0.9), 0.14, 0.08, (255, 240, 170))
    pen.box(0, horizon, 1, 1, (30, 110, 200))
    pen.box(0, horizon + 0.13, 1, 1, (236, 216, 156))


def _night_city(pen: _Pen, random: Random) -> None:
    pen.box(0, 0, 1, 1, (14, 14, 50))
    left = -0.02
    while left < 1:
        width, top = random.uniform(0.1, 0.2), random.uniform(0.16, 0.42)
        pen.box(left, top, left + width - 0.015, 0.75, (66, 66, 90))
        for row in range(4):
            if random.random() < 0.6:
                x, y = left + random.uniform(0.2, 0.6) * width, top + 0.05 + 0.09 * row
                pen.box(x, y, x + 0.03, y + 0.04, (255, 220, 110))
        left += width
    pen.box(0, 0.72, 1, 1, (34, 32, 48))


def _room(pen: _Pen, random: Random) -> None:
    pen.box(0, 0, 1, 1, (226, 214, 194))
    pen.box(0, random.uniform(0.62, 0.7), 1, 1, (150, 104, 76))
    x = random.choice((random.uniform(0.03, 0.1), random.uniform(0.68, 0.75)))
    pen.box(x, 0.1, x + 0.22, 0.4, (250, 250, 250))
    pen.box(x + 0.02, 0.12, x + 0.2, 0.38, (164, 206, 240))


def _snow(pen: _Pen, random: Random) -> None:
    pen.box(0, 0, 1, 1, (196, 216, 232))
    for x in (random.uniform(0, 0.3), random.uniform(0.7, 1)):
        top = random.uniform(0.12, 0.24)
        pen.shape([(x - 0.4, 0.66), (x, top), (x + 0.4, 0.66)], (122, 138, 160))
        pen.shape([(x - 0.1, top + 0.12), (x, top), (x + 0.1, top + 0.12)], (250, 252, 255))
    pen.box(0, 0.6, 1, 1, (244, 248, 252))


def _desert(pen: _Pen, random: Random) -> None:
    pen.box(0, 0, 1, 1, (250, 170, 96))
    pen.disc(random.uniform(0.12, 0.88), 0.3, 0.1, (255, 226, 140))
    crest = random.uniform(0.2, 0.8)
    pen.shape([(0, 0.66), (crest, 0.5), (1, 0.64), (1, 1), (0, 1)], (206, 120, 60))
    x = random.choice((0.1, 0.9))
    pen.box(x - 0.025, 0.42, x + 0.025, 0.74, (52, 104, 58))
    pen.box(x - 0.08, 0.5, x + 0.08, 0.54, (52, 104, 58))


def _forest(pen: _Pen, random: Random) -> None:
    pen.box(0, 0, 1, 1, (24, 60, 38))
    for trunk in range(6):
        x = (trunk + random.uniform(0.2, 0.8)) / 6
        pen.box(x - 0.03, 0, x + 0.03, 0.8, (78, 54, 36))
    for _ in range(8):
        pen.disc(random.random(), random.uniform(0, 0.2), 0.12, (36, 92, 46))
    pen.box(0, 0.74, 1, 1, (50, 72, 34))


def _stage(pen: _Pen, random: Random) -> None:
    pen.box(0, 0, 1, 1, (96, 14, 30))
    for fold in range(7):
        x = (fold + random.uniform(0.2, 0.4)) / 7
        pen.box(x, 0, x + 0.05, 0.72, (140, 26, 42))
    x = random.uniform(0.35, 0.65)
    pen.shape([(x, 0), (x - 0.4, 0.86), (x + 0.4, 0.86)], (186, 92, 84))
    pen.box(0, 0.72, 1, 1, (84, 58, 40))


_SCENES: Mapping[Scene, Callable[[_Pen, Random], None]] = {
    Scene.PARK: _park,
    Scene.BEACH: _beach,
    Scene.NIGHT_CITY: _night_city,
    Scene.ROOM: _room,
    Scene.SNOW: _snow,
    Scene.DESERT: _desert,
    Scene.FOREST: _forest,
    Scene.STAGE: _stage,
}
