"""Draws portraits and clips of made-up people: what the tiny variants are trained and measured on.

A person, a scene, an action and a seed give a clip, always the same. Every shape is placed by
geometry, so that landmarks and labels are known exactly instead of being looked for. This module
knows no model; `captions.py` has the words.

A picture is square. Places on it are fractions of its side, x to the right and y down.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from random import Random

import numpy as np
import numpy.typing as npt
from PIL import Image

from lynx_engine.training.figure import Figure, Landmarks, Pose
from lynx_engine.training.people import Person, between
from lynx_engine.training.scenes import Scene, draw_scene

Frames = npt.NDArray[np.uint8]

# Shapes are drawn at four times the size and averaged, which smooths their edges.
_OVERSAMPLING = 4


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
class Drawing:
    """A drawn clip and what is known of it.

    Attributes:
        frames: RGB, uint8, [F, H, W, 3].
        landmarks: Eyes, nose and mouth corners of each frame, left to right in the picture,
            float32, [F, 5, 2], (x, y) in pixels.
    """

    frames: Frames
    landmarks: Landmarks


def draw_portrait(person: Person, *, side: int, seed: int = 0) -> Drawing:
    """Return a photo of a person: one frame, near, the face straight, in an ordinary light.

    Args:
        person: Who.
        side: Width and height in pixels.
        seed: Moves background, distance and place a little.
    """
    random = Random(f"portrait {seed}")
    wall = between((226, 216, 198), (150, 170, 190), random.random())
    edge = side * _OVERSAMPLING
    backdrop = Image.new("RGB", (edge, edge), wall)
    pose = Pose(
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
    rest = Pose(
        chin=(0.5 + random.uniform(-0.06, 0.06), 0.58 + random.uniform(-0.03, 0.03)),
        head_height=random.uniform(0.30, 0.36),
    )
    begin, mirrored = random.random(), random.random() < 0.5
    poses = [_posed(rest, action, begin + frame / 8, mirrored=mirrored) for frame in range(frames)]
    return _drawing(person, backdrop, poses)


def _posed(rest: Pose, action: Action, turn: float, *, mirrored: bool) -> Pose:
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


def _drawing(person: Person, backdrop: Image.Image, poses: Sequence[Pose]) -> Drawing:
    pictures: list[Frames] = []
    landmarks: list[Landmarks] = []
    for pose in poses:
        canvas = backdrop.copy()
        marks = Figure(person, pose, canvas).draw()
        pictures.append(np.asarray(canvas.reduce(_OVERSAMPLING)))
        landmarks.append(marks / np.float32(_OVERSAMPLING))
    return Drawing(np.stack(pictures), np.stack(landmarks))
