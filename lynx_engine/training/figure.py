"""Draws one person in one pose onto a picture, from back to front.

Places on a person are in head heights from the middle of the chin, x to the right and y down, so
that a person is drawn the same near and far. It knows nothing of scenes, clips or seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw

from lynx_engine.training.people import (
    Beard,
    Colour,
    Glasses,
    HairStyle,
    Pattern,
    Person,
    between,
)

Landmarks = npt.NDArray[np.float32]

# In head heights: where the shirt begins under the chin, and how wide a stripe is.
_SHIRT_TOP, _STRIPE = 0.04, 0.17
# Heights on the face, over the chin.
_EYES, _MOUTH = -0.56, -0.17


@dataclass(frozen=True, slots=True)
class Pose:
    """Where a person is in one frame, and how they hold themselves.

    Attributes:
        chin: The chin's place in fractions of the picture's side.
        head_height: In fractions of the picture's side.
        head_shift: The head beside and below its place over the neck, in head heights.
        gaze: How far the face is turned, -1 to 1; moves what is on it.
        smile: 0 a straight mouth, 1 a wide smile.
        hands: The raised hands, in head heights from the chin; the others hang out of sight.
    """

    chin: tuple[float, float]
    head_height: float
    head_shift: tuple[float, float] = (0.0, 0.0)
    gaze: float = 0.0
    smile: float = 0.3
    hands: tuple[tuple[float, float], ...] = ()


class Figure:
    """One person in one frame, drawn from back to front."""

    def __init__(self, person: Person, pose: Pose, canvas: Image.Image) -> None:
        """Draw `person` onto `canvas`, RGB and square."""
        self._person = person
        self._pose = pose
        self._canvas = canvas
        self._pen = ImageDraw.Draw(canvas)
        self._unit = pose.head_height * canvas.width
        self._head = pose.head_shift
        # What is on a turned face moves with it, less at the rim than in the middle.
        self._turn = 0.16 * pose.gaze * person.face_width

    def draw(self) -> Landmarks:
        """Draw it, and return its landmarks in pixels of the canvas."""
        self._hair_behind()
        self._body()
        self._head_shape()
        self._hair_before()
        marks = self._face()
        for hand in self._pose.hands:
            self._arm(hand)
        return marks

    def _at(self, x: float, y: float) -> tuple[float, float]:
        """Return a place of the body in pixels."""
        chin_x, chin_y = self._pose.chin
        return (
            chin_x * self._canvas.width + x * self._unit,
            chin_y * self._canvas.width + y * self._unit,
        )

    def _on_head(self, x: float, y: float) -> tuple[float, float]:
        return self._at(x + self._head[0], y + self._head[1])

    def _ellipse(self, x: float, y: float, radii: tuple[float, float], colour: Colour) -> None:
        """Fill an ellipse on the head around a place."""
        (left, top), (right, bottom) = (
            self._on_head(x - radii[0], y - radii[1]),
            self._on_head(x + radii[0], y + radii[1]),
        )
        self._pen.ellipse((left, top, right, bottom), fill=colour)

    def _shape(self, points: Sequence[tuple[float, float]], colour: Colour) -> None:
        self._pen.polygon([self._on_head(x, y) for x, y in points], fill=colour)

    @property
    def _half(self) -> float:
        return self._person.face_width / 2

    def _hair_behind(self) -> None:
        half, hair = self._half, self._person.hair
        match self._person.style:
            case HairStyle.LONG:
                self._ellipse(0, -0.62, (half + 0.12, 0.5), hair)
                self._curtain(half + 0.12, half + 0.2, down_to=0.35)
            case HairStyle.BOB:
                self._ellipse(0, -0.6, (half + 0.13, 0.5), hair)
                self._curtain(half + 0.13, half + 0.1, down_to=-0.08)
            case HairStyle.CURLY:
                for step in range(9):
                    angle = math.pi * (0.92 + 1.16 * step / 8)
                    x, y = math.cos(angle) * (half + 0.06), math.sin(angle) * 0.5 - 0.52
                    self._ellipse(x, y, (0.2, 0.2), hair)
            case HairStyle.BUN:
                self._ellipse(0, -1.13, (0.19, 0.17), hair)
            case _:
                pass

    def _curtain(self, above: float, below: float, *, down_to: float) -> None:
        """Let hair fall behind the head, so wide at the temples and so wide at its end."""
        corners = [(-above, -0.6), (above, -0.6), (below, down_to), (-below, down_to)]
        self._shape(corners, self._person.hair)

    def _body(self) -> None:
        """Draw the shirt, whose stripes lie on the body, and what its collar leaves of the neck.

        The shirt begins right under the chin: the reference crop ends a quarter of a head below.
        """
        size, person = self._canvas.size, self._person
        mask = Image.new("L", size, 0)
        pen = ImageDraw.Draw(mask)
        body = (*self._at(-0.95, _SHIRT_TOP), *self._at(0.95, 2.2))
        pen.rounded_rectangle(body, radius=0.5 * self._unit, fill=255)
        self._canvas.paste(person.shirt, (0, 0), mask)
        if person.pattern is not Pattern.PLAIN:
            bands = Image.new("L", size, 0)
            pen = ImageDraw.Draw(bands)
            for number in range(-6, 14, 2):
                begin, end = (number - 0.5) * _STRIPE, (number + 0.5) * _STRIPE
                if person.pattern is Pattern.VERTICAL:
                    pen.rectangle((*self._at(begin, -1), *self._at(end, 3)), fill=255)
                else:  # shifted so that the reference crop shows as much of either colour
                    pen.rectangle(
                        (*self._at(-1, begin + 0.225), *self._at(1, end + 0.225)), fill=255
                    )
            self._canvas.paste(person.stripes, (0, 0), ImageChops.multiply(mask, bands))
        neck = (
            *self._at(-0.17 + self._head[0] / 2, -0.25),
            *self._at(0.17 + self._head[0] / 2, _SHIRT_TOP + 0.1),
        )
        shade = between(person.skin, (0, 0, 0), 0.15)
        self._pen.rounded_rectangle(neck, radius=0.12 * self._unit, fill=shade)

    def _head_shape(self) -> None:
        half, skin = self._half, self._person.skin
        for side in (-1, 1):
            self._ellipse(side * half, -0.45, (0.06, 0.1), between(skin, (0, 0, 0), 0.1))
        if self._person.beard is Beard.FULL:
            self._ellipse(0, -0.3, (half * 0.98, 0.36), self._person.hair)
            self._ellipse(0, -0.58, (half, 0.42), skin)
        else:
            self._ellipse(0, -0.5, (half, 0.5), skin)

    def _hair_before(self) -> None:
        half, hair = self._half, self._person.hair
        match self._person.style:
            case HairStyle.BALD:
                pass
            case HairStyle.MOHAWK:
                self._shape([(-0.1, -0.85), (-0.14, -1.25), (0.14, -1.25), (0.1, -0.85)], hair)
            case HairStyle.SIDE_PART:
                self._cap(0.62)
                self._shape(
                    [(-half, -0.55), (-half, -0.8), (half * 0.7, -0.9), (-0.1, -0.72)], hair
                )
            case HairStyle.LONG | HairStyle.BOB:
                self._cap(0.66)
                for side in (-1, 1):
                    self._shape(
                        [(side * half, -0.8), (side * half * 0.72, -0.7), (side * half, -0.3)], hair
                    )
            case _:
                self._cap(0.7)

    def _cap(self, edge: float) -> None:
        """Cover the head with hair down to a height, in head heights over the chin."""
        half = self._half
        left, top = self._on_head(-half - 0.04, -1.07)
        right, bottom = self._on_head(half + 0.04, -1.07 + 2 * (1.07 - edge))
        self._pen.pieslice((left, top, right, bottom), 180, 360, fill=self._person.hair)

    def _face(self) -> Landmarks:
        person, pose, turn = self._person, self._pose, self._turn
        apart = person.eye_distance * person.face_width / 2
        eyes = [(turn - apart, _EYES), (turn + apart, _EYES)]
        nose = (turn * 1.3, _EYES + person.nose + 0.1)
        for x, y in eyes:
            self._ellipse(x, y, (0.075, 0.05), (245, 245, 245))
            self._ellipse(x + 0.02 * pose.gaze, y, (0.04, 0.045), (24, 20, 24))
            brow = between(person.hair, (0, 0, 0), 0.25)
            self._shape(
                [(x - 0.1, y - 0.1), (x + 0.1, y - 0.1), (x + 0.1, y - 0.14), (x - 0.1, y - 0.14)],
                brow,
            )
        self._eyewear(eyes)
        self._ellipse(*nose, (0.05, 0.045), between(person.skin, (0, 0, 0), 0.22))
        if person.beard is not Beard.NONE:
            self._ellipse(turn, _MOUTH - 0.065, (0.17, 0.045), person.hair)
        corners = self._mouth(turn)
        places = [*eyes, nose, *corners]
        return np.asarray([self._on_head(x, y) for x, y in places], dtype=np.float32)

    def _mouth(self, turn: float) -> list[tuple[float, float]]:
        wide, smile = 0.11 + 0.08 * self._pose.smile, self._pose.smile
        (left, top), (right, bottom) = (
            self._on_head(turn - wide, _MOUTH - 0.02 - 0.1 * smile),
            self._on_head(turn + wide, _MOUTH + 0.02 + 0.1 * smile),
        )
        if smile > 0.65:
            self._pen.chord((left, top, right, bottom), 0, 180, fill=(250, 250, 250))
        self._pen.arc(
            (left, top, right, bottom), 10, 170, fill=self._person.lips, width=int(self._unit / 18)
        )
        return [(turn - wide, _MOUTH), (turn + wide, _MOUTH)]

    def _eyewear(self, eyes: Sequence[tuple[float, float]]) -> None:
        kind = self._person.glasses
        if kind is Glasses.NONE:
            return
        width, frame = max(1, int(self._unit / 22)), (20, 20, 24)
        (x0, y0), (x1, _) = eyes
        self._pen.line(
            [self._on_head(x0 - 0.2, y0), self._on_head(x1 + 0.2, y0)], fill=frame, width=width
        )
        for x, y in eyes:
            box = (*self._on_head(x - 0.14, y - 0.11), *self._on_head(x + 0.14, y + 0.11))
            if kind is Glasses.ROUND:
                self._pen.ellipse(box, outline=frame, width=width)
            elif kind is Glasses.SQUARE:
                self._pen.rectangle(box, outline=frame, width=width)
            else:
                self._pen.rounded_rectangle(box, radius=self._unit / 14, fill=frame)

    def _arm(self, hand: tuple[float, float]) -> None:
        """Draw a raised arm in the shirt's colour, and its hand."""
        side = math.copysign(1, hand[0])
        elbow = (side * 1.15, 0.35)
        shoulder = (side * 0.7, 0.5)
        width = int(0.26 * self._unit)
        points = [self._at(*shoulder), self._at(*elbow), self._at(*hand)]
        self._pen.line(points, fill=self._person.shirt, width=width, joint="curve")
        radius = 0.17 * self._unit
        x, y = self._at(*hand)
        self._pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=self._person.skin)
