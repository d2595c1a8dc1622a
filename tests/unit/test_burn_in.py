"""Labels drawn into frames: their words, size, place and time; the font that writes them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw, ImageFont

from lynx_engine.media.burn_in import FONT, TEXTS, burn_in, plate_for

SIZES = [(832, 480), (480, 832), (1280, 720), (256, 144), (128, 128), (64, 64), (48, 96)]
PROFILES = sorted(TEXTS)


def grey(width: int, height: int, frames: int = 3) -> npt.NDArray[np.uint8]:
    return np.full((frames, height, width, 3), 128, np.uint8)


def changed(frames: npt.NDArray[np.uint8], profile: str, fps: float = 8) -> npt.NDArray[np.bool_]:
    """Which pixels a label changes: bool [F, H, W]."""
    labelled = burn_in(frames, profile, fps).astype(np.int16)
    return np.abs(labelled - frames).max(axis=-1) > 0


def ink_of(character: str) -> bytes:
    """A character as the label's font draws it."""
    picture = Image.new("L", (96, 96))
    font = ImageFont.truetype(FONT, 64, layout_engine=ImageFont.Layout.BASIC)
    ImageDraw.Draw(picture).text((8, 72), character, fill=255, font=font, anchor="ls")
    return picture.tobytes()


def test_every_character_of_every_label_is_drawn_and_is_no_box_for_a_missing_one() -> None:
    missing = ink_of("\N{SNOWMAN}")
    written = {c for texts in TEXTS.values() for lines in texts for line in lines for c in line}
    drawn = {character: ink_of(character) for character in written}
    assert all(any(ink) for ink in drawn.values())
    assert any(missing)
    assert missing not in drawn.values()
    assert len(set(drawn.values())) == len(written)


def test_texts_say_what_the_rules_ask_for() -> None:
    for lines in TEXTS["cn"]:
        said = "".join(lines)
        assert "AI" in said or "人工智能" in said
        assert "生成" in said
    assert ["".join(lines) for lines in TEXTS["eu"]] == ["AI-generated", "AI-generated", "AI"]


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_label_lies_inside_the_safe_part_and_not_over_the_centre(
    profile: str, width: int, height: int
) -> None:
    rows, columns = np.nonzero(changed(grey(width, height), profile)[0])
    assert rows.min() >= 0.05 * height
    assert rows.max() < 0.95 * height
    assert columns.min() >= 0.05 * width
    assert columns.max() < 0.95 * width
    assert rows.max() < height / 2 or columns.max() < width / 2


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(("width", "height"), [*SIZES, (32, 32), (16, 64), (832, 16), (16, 16)])
def test_capitals_as_drawn_are_5_percent_of_the_short_side_at_least(
    profile: str, width: int, height: int
) -> None:
    plate = plate_for(profile, width, height)
    ink = plate.pixels[..., 0] > 60
    first = np.flatnonzero(ink.any(axis=0))[0]
    # Every text begins with "A", which is that wide at least, in its first line.
    letter = ink[: len(ink) // len(plate.lines), first : first + math.ceil(plate.capitals_px / 2)]
    assert letter.any(axis=1).sum() >= 0.05 * min(width, height)
    assert plate.capitals_px >= 0.05 * min(width, height)


def test_long_words_are_wrapped_and_then_shortened_before_they_get_unreadable() -> None:
    said = {size: plate_for("eu", *size).lines for size in [(128, 128), (64, 64), (32, 32)]}
    assert said == {
        (128, 128): ("AI-generated",),
        (64, 64): ("AI-", "generated"),
        (32, 32): ("AI",),
    }
    assert plate_for("cn", 64, 64).lines == ("AI生成",)
    assert plate_for("cn", 32, 32).lines == ("AI", "生成")


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("side", [1, 2, 8, 16])
def test_pictures_smaller_than_any_text_still_get_what_fits(profile: str, side: int) -> None:
    labelled = burn_in(grey(side, side), profile, 8)
    assert labelled.shape == (3, side, side, 3)
    assert np.any(labelled != 128)


def test_eu_label_stands_in_every_frame() -> None:
    assert changed(grey(64, 64, frames=40), "eu").any(axis=(1, 2)).sum() == 40


@pytest.mark.parametrize(("frames", "fps"), [(81, 16), (121, 24), (50, 23.976), (9, 8), (1, 1)])
def test_cn_label_opens_the_clip_for_two_seconds_or_all_of_it(frames: int, fps: float) -> None:
    shown = changed(grey(64, 64, frames=frames), "cn", fps).max(axis=(1, 2))
    count = int(shown.sum())
    assert shown.tolist() == [number < count for number in range(frames)]
    assert count == frames or count / fps >= 2
    assert count <= math.ceil(2 * fps)


@pytest.mark.parametrize("profile", PROFILES)
def test_frames_that_are_kept_for_another_encoding_stay_as_they_are(profile: str) -> None:
    frames = grey(64, 64)
    frames.setflags(write=False)
    first, second = burn_in(frames, profile, 8), burn_in(frames, profile, 8)
    assert np.all(frames == 128)
    assert np.array_equal(first, second)
    assert not np.shares_memory(first, second)


def test_without_a_label_the_very_same_frames_come_back() -> None:
    frames = grey(64, 64)
    assert burn_in(frames, "none", 8) is frames
