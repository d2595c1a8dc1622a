"""The drawn people that the tiny variants learn from: repeatable, told apart, known exactly."""

from __future__ import annotations

import itertools
from random import Random

import numpy as np
import pytest

from lynx_engine.training.captions import captions_of, draw_caption
from lynx_engine.training.drawings import Action, draw_clip, draw_portrait
from lynx_engine.training.people import Glasses, Pattern, make_person
from lynx_engine.training.scenes import Scene


def test_same_seeds_draw_the_same_clip_and_other_seeds_another() -> None:
    person = make_person(7)
    first, again, other = (
        draw_clip(person, Scene.PARK, Action.WAVE, frames=9, side=64, seed=seed).frames
        for seed in (1, 1, 2)
    )

    assert first.shape == (9, 64, 64, 3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_thousand_people_are_told_apart_by_their_faces() -> None:
    faces = np.stack(
        [
            draw_portrait(make_person(seed), side=32).frames[0, 3:21, 8:24].astype(np.int16)
            for seed in range(1000)
        ]
    ).reshape(1000, -1)

    nearest = min(
        float(np.abs(faces[seed + 1 :] - faces[seed]).mean(axis=1).min()) for seed in range(999)
    )

    # In grey levels; drawing the same person a pixel to the side moves more than this.
    assert nearest > 2


@pytest.mark.parametrize("action", [a for a in Action if a is not Action.STAND])
def test_every_action_moves_and_standing_does_not(action: Action) -> None:
    person = make_person(3)
    moved = draw_clip(person, Scene.ROOM, action, frames=9, side=64, seed=0).frames
    stood = draw_clip(person, Scene.ROOM, Action.STAND, frames=9, side=64, seed=0).frames

    # The least motion is a smile's: a few pixels of the mouth.
    assert np.abs(np.diff(moved.astype(np.int16), axis=0)).max() > 60
    assert not np.diff(stood.astype(np.int16), axis=0).any()


def test_landmarks_lie_on_the_eyes_that_were_drawn() -> None:
    bare = next(person for person in map(make_person, range(50)) if person.glasses is Glasses.NONE)
    drawing = draw_portrait(bare, side=256)
    for x, y in drawing.landmarks[0, :2]:
        pupil = drawing.frames[0, round(float(y)), round(float(x))]
        assert pupil.max() < 60, "a pupil is dark"
    left, right, nose, left_corner, right_corner = drawing.landmarks[0]
    assert left[0] < nose[0] < right[0]
    assert nose[1] < left_corner[1] == right_corner[1]


def test_turned_heads_keep_their_landmarks_in_the_picture() -> None:
    for action, scene in itertools.product(Action, (Scene.BEACH, Scene.STAGE)):
        drawing = draw_clip(make_person(11), scene, action, frames=9, side=64, seed=5)
        assert drawing.landmarks.shape == (9, 5, 2)
        assert (drawing.landmarks > 0).all()
        assert (drawing.landmarks < 64).all()


def test_stripes_have_two_colours_that_differ_and_plain_shirts_one() -> None:
    for person in map(make_person, range(200)):
        apart = sum(abs(a - b) for a, b in zip(person.shirt, person.stripes, strict=True))
        assert (apart == 0) if person.pattern is Pattern.PLAIN else (apart >= 200)


def test_no_wording_stands_for_two_scenes_or_actions() -> None:
    seen: dict[str, tuple[Scene, Action]] = {}
    for scene, action in itertools.product(Scene, Action):
        for text in captions_of(scene, action):
            assert seen.setdefault(text, (scene, action)) == (scene, action), text
    assert len(seen) > 2000


def test_captions_are_drawn_in_both_languages() -> None:
    random = Random(0)
    texts = [draw_caption(Scene.SNOW, Action.NOD, random) for _ in range(200)]

    assert 10 <= sum(not text.isascii() for text in texts) <= 50
    assert len(set(texts)) > 40
