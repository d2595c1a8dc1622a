"""Draws made-up people in scenes, doing things: what the tiny variants are trained and measured on.

A seed gives a person, and a person, a scene, an action and a seed give a clip, always the same.
Every shape is placed by geometry, so that landmarks and labels are known exactly instead of being
looked for. This module knows no model; `captions.py` has the words.

A picture is square. Places on it are fractions of its side, x to the right and y down; places on a
person are in head heights from the middle of the chin, so that a person is drawn the same near and
far.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from random import Random

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw

from lynx_engine.training.scenes import Scene, draw_scene

Colour = tuple[int, int, int]
Frames = npt.NDArray[np.uint8]
Landmarks = npt.NDArray[np.float32]

# Shapes are drawn at four times the size and averaged, which smooths their edges.
_OVERSAMPLING = 4
# In head heights: where the shirt begins under the chin, and how wide a stripe is.
_SHIRT_TOP, _STRIPE = 0.04, 0.17
# Heights on the face, over the chin.
_EYES, _MOUTH = -0.56, -0.17


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


class Action(StrEnum):
    """What the person does."""

    WAVE = "wave"
    NOD = "nod"
    SHAKE_HEAD = "shake head"
    WALK = "walk"
    SMILE = "smile"
    JUMP = "jump"
    CHEER = "cheer"
    STAND = "stand"


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


@dataclass(frozen=True, slots=True)
class Drawing:
    """A drawn clip and what is known of it.

    Attributes:
        frames: RGB, uint8, [F, H, W, 3].
        landmarks: Eyes, nose and mouth corners of each frame, left to right in the picture,
            float32, [F, 5, 2], (x, y) in pixels.
    """

    frames: Frames
    landmarks: Landmarks


@dataclass(frozen=True, slots=True)
class _Pose:
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
    skin = _between(_SKINS[int(shade)], _SKINS[int(shade) + 1], shade % 1)
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
        lips=_jittered(_between(skin, (190, 40, 60), 0.65), random, 10),
        shirt=shirt,
        stripes=shirt if pattern is Pattern.PLAIN else _far_from(shirt, random),
        pattern=pattern,
    )


def draw_portrait(person: Person, *, side: int, seed: int = 0) -> Drawing:
    """Return a photo of a person: one frame, near, the face straight, in an ordinary light.

    Args:
        person: Who.
        side: Width and height in pixels.
        seed: Moves background, distance and place a little.
    """
    random = Random(f"portrait {seed}")
    wall = _between((226, 216, 198), (150, 170, 190), random.random())
    edge = side * _OVERSAMPLING
    backdrop = Image.new("RGB", (edge, edge), wall)
    pose = _Pose(
        chin=(0.5 + random.uniform(-0.03, 0.03), 0.62 + random.uniform(-0.02, 0.03)),
        head_height=random.uniform(0.40, 0.46),
        smile=random.uniform(0.1, 0.6),
    )
    return _drawing(person, backdrop, [pose])


def draw_clip(
    person: Person, scene: Scene, action: Action, *, frames: int, side: int, seed: int
) -> Drawing:
    """Return a clip of a person doing something somewhere.

    Args:
        person: Who.
        scene: Where.
        action: What.
        frames: F; the action takes eight frames a turn.
        side: Width and height in pixels.
        seed: Varies the scene's details, the place and size of the person and where in its turn
            the action begins.
    """
    random = Random(f"clip {seed}")
    backdrop = draw_scene(scene, side=side * _OVERSAMPLING, random=random)
    rest = _Pose(
        chin=(0.5 + random.uniform(-0.06, 0.06), 0.58 + random.uniform(-0.03, 0.03)),
        head_height=random.uniform(0.30, 0.36),
    )
    begin, mirrored = random.random(), random.random() < 0.5
    poses = [_posed(rest, action, begin + frame / 8, mirrored=mirrored) for frame in range(frames)]
    return _drawing(person, backdrop, poses)


def _posed(rest: _Pose, action: Action, turn: float, *, mirrored: bool) -> _Pose:
    """Return the pose at one moment; `turn` counts the action's turns from its beginning."""
    swing, lift = math.sin(2 * math.pi * turn), abs(math.sin(math.pi * turn))
    side = -1.0 if mirrored else 1.0
    x, y = rest.chin
    pose = rest
    match action:
        case Action.WAVE:
            hand = (side * (0.95 + 0.28 * swing), -0.55)
            pose = replace(rest, hands=(hand,))
        case Action.NOD:
            pose = replace(rest, head_shift=(0.0, 0.11 * swing))
        case Action.SHAKE_HEAD:
            pose = replace(rest, head_shift=(0.05 * swing, 0.0), gaze=swing)
        case Action.WALK:
            # Once through the picture and back in two turns, facing where it goes.
            there = math.sin(math.pi * turn) * side
            ahead = math.copysign(0.6, math.cos(math.pi * turn) * side)
            pose = replace(rest, chin=(x + 0.2 * there, y - 0.02 * lift), gaze=ahead)
        case Action.SMILE:
            pose = replace(rest, smile=0.5 - 0.5 * math.cos(2 * math.pi * turn))
        case Action.JUMP:
            pose = replace(rest, chin=(x, y + 0.07 - 0.2 * lift))
        case Action.CHEER:
            height = -0.62 - 0.22 * swing
            pose = replace(rest, hands=((-0.85, height), (0.85, height)))
        case Action.STAND:
            pass
    return pose


def _drawing(person: Person, backdrop: Image.Image, poses: Sequence[_Pose]) -> Drawing:
    pictures: list[Frames] = []
    landmarks: list[Landmarks] = []
    for pose in poses:
        canvas = backdrop.copy()
        marks = _Figure(person, pose, canvas).draw()
        pictures.append(np.asarray(canvas.reduce(_OVERSAMPLING)))
        landmarks.append(marks / np.float32(_OVERSAMPLING))
    return Drawing(np.stack(pictures), np.stack(landmarks))


class _Figure:
    """One person in one frame, drawn from back to front."""

    def __init__(self, person: Person, pose: _Pose, canvas: Image.Image) -> None:
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
        shade = _between(person.skin, (0, 0, 0), 0.15)
        self._pen.rounded_rectangle(neck, radius=0.12 * self._unit, fill=shade)

    def _head_shape(self) -> None:
        half, skin = self._half, self._person.skin
        for side in (-1, 1):
            self._ellipse(side * half, -0.45, (0.06, 0.1), _between(skin, (0, 0, 0), 0.1))
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
            brow = _between(person.hair, (0, 0, 0), 0.25)
            self._shape(
                [(x - 0.1, y - 0.1), (x + 0.1, y - 0.1), (x + 0.1, y - 0.14), (x - 0.1, y - 0.14)],
                brow,
            )
        self._eyewear(eyes)
        self._ellipse(*nose, (0.05, 0.045), _between(person.skin, (0, 0, 0), 0.22))
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


def _between(one: Colour, other: Colour, share: float) -> Colour:
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
