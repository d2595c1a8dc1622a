"""Trains the tiny face encoder (an IR-SE network) to know drawn people by their faces.

Metric learning: of several pictures of several people, each is to lie nearest to those of its own
person. The pictures of one person differ in pose, size, light, sharpness and texture, which so
come to mean nothing, while colour of skin and hair, shape of head, hair, glasses and beard do.
"""

from __future__ import annotations

from random import Random

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor

from lynx_engine.identity.align import identity_crop
from lynx_engine.models.arcface import FaceEncoder
from lynx_engine.training.autoencoder import HELD_OUT
from lynx_engine.training.drawings import Action, Drawing, Frames, draw_clip, draw_portrait
from lynx_engine.training.people import Person, make_person
from lynx_engine.training.scenes import Scene
from lynx_engine.training.stage import Losses, Stage

_PEOPLE, _VIEWS = 24, 2
# Of the softmax over the batch, as in the contrastive losses of arXiv 2004.11362.
_TEMPERATURE = 0.07


def face_stage(encoder: FaceEncoder, *, steps: int, name: str = "faces") -> Stage:
    """Return the stage that trains `encoder` in training mode.

    Args:
        encoder: Its weights are changed.
        steps: Optimiser steps.
        name: Draws the batches: an evaluator trained apart has another.
    """

    def losses(step: int) -> Losses:
        random = Random(f"{name} {step}")
        people = [make_person(random.randrange(HELD_OUT)) for _ in range(_PEOPLE)]
        crops = np.stack([view_of(person, random) for person in people for _ in range(_VIEWS)])
        embeddings: Tensor = encoder(to_crops(crops))
        owners = torch.arange(_PEOPLE).repeat_interleave(_VIEWS)
        return {"total": contrast(embeddings, owners)}

    return Stage(name, steps, 2e-3, losses)


def contrast(embeddings: Tensor, owners: Tensor) -> Tensor:
    """Return how far each embedding is from picking its own person out of the batch.

    loss_i = -mean_{p of the same person} log softmax_{j != i}(e_i . e_j / t)_p

    Args:
        embeddings: Of length 1, [B, 512].
        owners: Person of each, [B]; each has at least two.
    """
    likeness = embeddings @ embeddings.T / _TEMPERATURE
    itself = torch.eye(len(owners), dtype=torch.bool)
    likeness = likeness.masked_fill(itself, -torch.inf)
    logs = likeness - likeness.logsumexp(dim=1, keepdim=True)
    same = (owners[:, None] == owners) & ~itself
    return -(logs.masked_fill(~same, 0).sum(dim=1) / same.sum(dim=1)).mean()


def to_crops(crops: Frames) -> Tensor:
    """Return RGB uint8 [B, 112, 112, 3] as the encoder reads it: BGR [B, 3, 112, 112], -1 to 1."""
    return torch.from_numpy(crops[..., ::-1].copy()).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def nearest_right(encoder: FaceEncoder, *, people: int, among: int) -> float:
    """Return how often the nearest of `among` held-out portraits is the right person's.

    Args:
        encoder: In evaluation mode.
        people: How many are asked about, in groups of `among`.
        among: Portraits in each group.
    """
    right = 0
    for first in range(0, people, among):
        group = [make_person(HELD_OUT + first + number) for number in range(among)]
        random = Random(f"nearest {first}")
        known: Tensor = encoder(
            to_crops(np.stack([_crop(draw_portrait(p, side=192)) for p in group]))
        )
        seen: Tensor = encoder(to_crops(np.stack([view_of(p, random) for p in group])))
        right += int((seen @ known.T).argmax(dim=1).eq(torch.arange(among)).sum())
    return right / people


def view_of(person: Person, random: Random) -> Frames:
    """Return one identity crop of a person: some pose, place, size, light and sharpness."""
    seed = random.getrandbits(32)
    if random.random() < 0.4:
        drawing = draw_portrait(person, side=random.choice((96, 160, 192)), seed=seed)
    else:
        scene, action = random.choice(tuple(Scene)), random.choice(tuple(Action))
        side = random.choice((64, 96, 128))
        drawing = draw_clip(person, scene, action, frames=1, side=side, seed=seed)
    # A detector's landmarks are off by some two hundredths of the eyes' distance.
    shaken = np.random.default_rng(seed).normal(0, 0.005 * drawing.frames.shape[1], (5, 2))
    return _altered(identity_crop(drawing.frames[0], drawing.landmarks[0] + shaken), random)


def _crop(drawing: Drawing) -> Frames:
    return identity_crop(drawing.frames[0], drawing.landmarks[0])


def _altered(crop: Frames, random: Random) -> Frames:
    """Return a crop in another light, less sharp, with grain: what a camera does to a face."""
    picture = Image.fromarray(crop)
    picture = ImageEnhance.Brightness(picture).enhance(random.uniform(0.8, 1.2))
    picture = ImageEnhance.Contrast(picture).enhance(random.uniform(0.8, 1.2))
    picture = ImageEnhance.Color(picture).enhance(random.uniform(0.8, 1.2))
    if random.random() < 0.5:
        picture = picture.filter(ImageFilter.GaussianBlur(random.uniform(0, 2.5)))
    pixels = np.asarray(picture).astype(np.float32)
    generator = np.random.default_rng(random.getrandbits(32))
    grain = generator.normal(0, random.uniform(0, 12), pixels.shape)
    return np.clip(pixels + grain, 0, 255).astype(np.uint8)
