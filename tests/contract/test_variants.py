"""What every variant of the registry keeps to, whichever it is."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from lynx_engine.errors import RowError
from lynx_engine.shapes import FrameSize
from lynx_engine.variants import REGISTRY, all_variants, get_variant
from lynx_engine.variants.spec import VariantSpec
from lynx_engine.weights.fingerprint import weights_fingerprint

SPECS = all_variants()


@pytest.fixture(params=SPECS.values(), ids=list(SPECS))
def spec(request: pytest.FixtureRequest) -> VariantSpec:
    return request.param


def test_name_is_the_one_it_is_registered_under(spec: VariantSpec) -> None:
    assert get_variant(spec.name) is spec
    assert spec.summary


def test_defaults_are_renderable(spec: VariantSpec) -> None:
    defaults = spec.defaults
    assert spec.nearest_frames(defaults.frames) == ()
    assert spec.nearest_size(defaults.size) is None
    assert min(defaults.fps, defaults.steps) >= 1
    assert defaults.negative_prompt


def test_settings_without_an_effect_default_to_zero(spec: VariantSpec) -> None:
    defaults = spec.defaults
    assert (defaults.guidance_identity != 0) == ("identity" in spec.branches)
    assert (defaults.scale_identity != 0) == spec.uses_subject
    assert (defaults.scale_reference != 0) == spec.uses_reference


def test_first_branch_is_the_unconditional_one(spec: VariantSpec) -> None:
    assert spec.branches[0] == "unconditional"
    assert len(set(spec.branches)) == len(spec.branches) >= 2


def test_every_weight_file_names_its_source_and_licence(spec: VariantSpec) -> None:
    assert spec.weights or spec.name == "sleeper"
    assert all(file.path and file.source and file.licence for file in spec.weights)


def test_variant_that_depicts_people_does_not_come_from_a_recipe(spec: VariantSpec) -> None:
    assert spec.depicts_people == (not spec.recipe)
    assert not spec.builder or spec.recipe


def test_fingerprint_is_known_or_every_missing_file_is_named(
    spec: VariantSpec, tmp_path_factory: pytest.TempPathFactory
) -> None:
    empty = tmp_path_factory.mktemp("models")
    if spec.recipe:
        assert weights_fingerprint(spec, empty) == spec.recipe
        return
    with pytest.raises(RowError) as caught:
        weights_fingerprint(spec, empty)
    for file in spec.weights:
        assert file.path in str(caught.value)
        assert file.source in str(caught.value)


@pytest.mark.parametrize("frames", [0, 2, 3, 4, 6, 80, 82])
def test_wrong_frame_count_names_only_counts_that_fit(spec: VariantSpec, frames: int) -> None:
    named = spec.nearest_frames(frames)
    assert named
    assert all((n - 1) % spec.frame_stride == 0 and n >= 1 for n in named)
    assert all(abs(n - frames) < spec.frame_stride for n in named)


@pytest.mark.parametrize("size", ["65x64", "1x1", "833x479", "500x500"])
def test_wrong_size_names_the_nearest_that_fits(spec: VariantSpec, size: str) -> None:
    asked = FrameSize.parse(size)
    named = spec.nearest_size(asked)
    assert named is not None
    assert spec.nearest_size(named) is None
    step = spec.size_multiple
    assert abs(named.width_px - asked.width_px) <= max(step / 2, step - asked.width_px)


def test_specs_are_readable_without_torch() -> None:
    program = (
        "import sys; from lynx_engine.variants import all_variants; all_variants();"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_new_variant_is_a_file_and_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    module = types.ModuleType("my_variant")
    module.SPEC = replace(SPECS["tiny"], name="mine")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_variant", module)
    monkeypatch.setitem(REGISTRY, "mine", "my_variant")
    assert get_variant("mine").base == SPECS["tiny"].base
