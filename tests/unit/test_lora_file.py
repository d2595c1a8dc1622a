"""What planning sees of a LoRA file: what it is, and whether it fits, without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lynx_engine.digest import digest_file
from lynx_engine.errors import ErrorCode, RowError
from lynx_engine.models import lora_file
from lynx_engine.models.lora_file import fit_fault, inspect_lora, layer_shapes, left_out
from tests.support.loras import BLOCK_LAYERS, LAYERS, factors, write_lora
from tests.support.weights import write_public_layout

Q = "blocks.0.attn1.to_q"


def test_layers_are_those_of_the_model_itself(tmp_path: Path) -> None:
    from diffusers import WanTransformer3DModel

    write_public_layout(tmp_path)
    folder = tmp_path / "Wan2.1-T2V-14B-Diffusers" / "transformer"
    model = WanTransformer3DModel.from_pretrained(folder)
    linear = {
        name: (module.out_features, module.in_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    assert layer_shapes(json.loads((folder / "config.json").read_text())) == linear


@pytest.mark.parametrize(
    ("naming", "alpha"), [("diffusers", None), ("original", None), ("original", 1), ("kohya", 1)]
)
def test_a_lora_in_each_public_naming_fits(tmp_path: Path, naming: str, alpha: float) -> None:
    path = write_lora(tmp_path / "a.st", factors(BLOCK_LAYERS), naming=naming, alpha=alpha)
    header = inspect_lora(path)
    assert header.digest == digest_file(path)
    assert fit_fault(header, LAYERS) == ""


def fault_of(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> str:
    save_file(tensors, tmp_path / "a.st")
    return fit_fault(inspect_lora(tmp_path / "a.st"), LAYERS)


def test_every_key_that_fits_no_layer_is_named(tmp_path: Path) -> None:
    down, up = factors([Q])[Q]
    fault = fault_of(
        tmp_path,
        {
            f"transformer.{Q}.lora_A.weight": down,
            f"transformer.{Q}.lora_B.weight": up,
            "transformer.blocks.9.attn1.to_q.lora_A.weight": down.clone(),
            "transformer.blocks.0.attn3.to_q.lora_A.weight": down.clone(),
            "transformer.blocks.0.attn1.to_q.dora_scale": up.clone(),
            "unet.down.lora_A.weight": down.clone(),
        },
    )
    assert fault == (
        "fits no layer of this model with 4 of its 6 tensors: "
        "transformer.blocks.0.attn1.to_q.dora_scale, "
        "transformer.blocks.0.attn3.to_q.lora_A.weight, "
        "transformer.blocks.9.attn1.to_q.lora_A.weight, unet.down.lora_A.weight. "
        "Use a LoRA made for Wan2.1 text to video"
    )


def test_a_wrong_shape_is_named_with_the_right_one(tmp_path: Path) -> None:
    down, up = factors([Q])[Q]
    fault = fault_of(
        tmp_path,
        {
            f"transformer.{Q}.lora_A.weight": torch.zeros(2, 5120),
            f"transformer.{Q}.lora_B.weight": up,
            "transformer.proj_out.lora_A.weight": down,
        },
    )
    assert fault == (
        "does not fit this model: blocks.0.attn1.to_q lora_A [2, 5120] instead of [2, 96], "
        "proj_out has no lora_B. Use a LoRA made for its size"
    )


def test_text_encoder_parts_are_refused(tmp_path: Path) -> None:
    made = factors([Q])[Q]
    fault = fault_of(
        tmp_path,
        {
            f"transformer.{Q}.lora_A.weight": made[0],
            f"transformer.{Q}.lora_B.weight": made[1],
            "text_encoder.block.0.q.lora_A.weight": made[0].clone(),
        },
    )
    assert fault.startswith("changes the text encoder (text_encoder.block.0.q.lora_A.weight)")


def test_differences_of_norms_in_public_distilled_loras_are_left_out_by_name(
    tmp_path: Path,
) -> None:
    path = write_lora(tmp_path / "a.st", factors([Q]), naming="original")
    extra = {
        "diffusion_model.blocks.0.self_attn.norm_k.diff": torch.zeros(96),
        "diffusion_model.blocks.0.norm3.diff_b": torch.zeros(96),
        "diffusion_model.patch_embedding.diff": torch.zeros(96, 16, 1, 2, 2),
        "diffusion_model.blocks.0.self_attn.q.diff_b": torch.zeros(96),
        "diffusion_model.head.head.diff": torch.zeros(*LAYERS["proj_out"]),
        "diffusion_model.head.head.diff_b": torch.zeros(LAYERS["proj_out"][0]),
    }
    save_file({**load_file(path), **extra}, path)
    header = inspect_lora(path)
    assert fit_fault(header, LAYERS) == ""
    assert left_out(header) == sorted(list(extra)[:3])


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ({"modelspec.license": "CC-BY-4.0\n", "license": "other"}, "CC-BY-4.0"),
        ({"license": "apache-2.0"}, "apache-2.0"),
        ({"license": "x" * 999}, "x" * 200),
        ({"modelspec.license": " "}, "unknown"),
        (None, "unknown"),
    ],
)
def test_licence_is_what_the_file_says_of_itself(
    tmp_path: Path, metadata: dict[str, str] | None, licence: str
) -> None:
    path = write_lora(tmp_path / "a.st", factors([Q]))
    save_file(load_file(path), path, metadata)
    assert inspect_lora(path).licence == licence


def test_a_kohya_file_that_lacks_a_layer_is_refused_as_the_loader_would(tmp_path: Path) -> None:
    layers = [name for name in BLOCK_LAYERS if name != "blocks.2.ffn.net.2"]
    path = write_lora(tmp_path / "a.st", factors(layers), naming="kohya", alpha=1)
    assert "blocks.2.ffn.net.2 is missing or has no alpha" in fit_fault(inspect_lora(path), LAYERS)


def refusal(path: Path) -> str:
    with pytest.raises(RowError) as caught:
        inspect_lora(path)
    assert caught.value.code is ErrorCode.LORA
    return str(caught.value).removeprefix(f"LoRA {path} ")


def test_what_is_no_plain_safetensors_file_is_refused_in_its_own_words(tmp_path: Path) -> None:
    assert refusal(tmp_path / "gone.st").startswith("does not exist. Check the path")
    assert refusal(tmp_path).startswith("is a folder. Name a .safetensors file")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert refusal(pipe).startswith("is not a regular file.")
    text = tmp_path / "text.st"
    text.write_text("this is no tensor file, but long enough to be one")
    assert refusal(text) == "is no safetensors file. Convert it to one."
    text.write_bytes((4).to_bytes(8, "little") + b"[[[[")
    assert refusal(text).startswith("has a damaged header.")
    text.write_bytes((2).to_bytes(8, "little") + b"{}")
    assert refusal(text).startswith("holds no tensors.")
    save_file({"a": torch.zeros(4, dtype=torch.int64)}, text)
    assert refusal(text) == "holds I64 numbers. Save it as BF16, F16 or F32."


def test_a_file_cut_at_any_length_is_refused(tmp_path: Path) -> None:
    path = write_lora(tmp_path / "a.st", factors([Q]))
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        assert refusal(path)


def test_a_header_that_lies_about_a_shape_is_refused(tmp_path: Path) -> None:
    path = write_lora(tmp_path / "a.st", factors([Q]))
    path.write_bytes(path.read_bytes().replace(b"[2,96]", b"[2,95]"))
    assert refusal(path).startswith(f"has a damaged header at transformer.{Q}.lora_A.weight.")


def test_a_file_over_the_limit_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.st"
    path.touch()
    os.truncate(path, lora_file.MAX_BYTES + 100_000_000)  # sparse: it takes no room
    monkeypatch.setattr(lora_file, "_read", None)
    assert refusal(path).startswith("has 4.1 GB; the limit is 4 GB")


def test_an_edited_file_is_read_again_and_an_equal_one_is_not(tmp_path: Path) -> None:
    path = write_lora(tmp_path / "a.st", factors([Q]))
    first = inspect_lora(path)
    assert inspect_lora(path) is first
    write_lora(path, factors([Q], seed=1))
    assert inspect_lora(path).digest == digest_file(path) != first.digest


def test_planning_with_a_lora_loads_no_torch(tmp_path: Path) -> None:
    write_lora(tmp_path / "a.st", factors([Q]))
    program = """
import sys
from lynx_engine import gather_facts, plan_renders, read_manifest
manifest = read_manifest("m.yaml")
(planned,) = plan_renders(manifest, gather_facts(manifest)).to_run
assert planned.job.loras[0].path.is_absolute() and planned.job.loras[0].weights_digest
assert not {"torch", "safetensors", "peft", "diffusers"} & set(sys.modules)
"""
    root = Path(__file__).parents[2]
    (tmp_path / "m.yaml").write_text(
        f"subjects: {{a: {{image: '{root}/manifests/subjects/astronaut.png', synthetic: true}}}}\n"
        "rows: [{subject: a, text: x, variant: tiny, loras: [{weights: a.st}]}]"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, timeout=60)


def test_without_peft_the_row_is_refused_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lynx_engine import gather_facts, plan_renders, read_manifest, survey
    from lynx_engine.errors import RefusedError

    monkeypatch.setattr(survey, "find_spec", lambda _: None)
    monkeypatch.chdir(tmp_path)
    Path("m.yaml").write_text(
        "rows: [{text: x, variant: wan, safety: acknowledged-off, loras: [{weights: a.st}]}]"
    )
    manifest = read_manifest("m.yaml")
    with pytest.raises(RefusedError, match="pip install 'peft"):
        plan_renders(manifest, gather_facts(manifest))
