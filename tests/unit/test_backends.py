"""Which attention backend runs where, which is chosen, and that those that run agree."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial

import pytest
import torch
from diffusers.models.attention_dispatch import (
    AttentionBackendName,
    _AttentionBackendRegistry,
    dispatch_attention_fn,
)

from lynx_engine.errors import ErrorCode, RefusedError, RowError
from lynx_engine.models.backends import (
    BACKENDS,
    AttentionChoice,
    BackendError,
    DeviceFacts,
    check_attention,
    choose_attention,
    installed_packages,
    why_not,
)
from lynx_engine.models.wan import attention_on, facts_on
from tests.benchmarks.guided_step import GuidedStep, Shape, make_step

ALL = frozenset({"flash_attn", "flash_attn_interface"})
NONE = frozenset[str]()
SHAPE = Shape(
    blocks=2, heads=2, head_width=24, ffn=96, text_width=32, lite_width=40, cells=(2, 8, 6)
)
MATH = AttentionChoice("_native_math", "torch's plain attention", "a test asks for it")


def facts(
    capability: tuple[int, int] | None, packages: frozenset[str], precision: str = "bfloat16"
) -> DeviceFacts:
    return DeviceFacts("cuda:0" if capability else "cpu", capability, packages, precision)


@pytest.mark.parametrize(
    ("capability", "packages", "precision", "name"),
    [
        ((9, 0), ALL, "bfloat16", "_flash_3"),
        ((9, 0), frozenset({"flash_attn"}), "bfloat16", "_native_cudnn"),
        ((9, 0), NONE, "float16", "_native_cudnn"),
        ((9, 0), ALL, "float32", "native"),
        ((10, 0), ALL, "bfloat16", "_native_cudnn"),
        ((12, 0), NONE, "bfloat16", "_native_cudnn"),
        ((8, 9), ALL, "bfloat16", "flash"),
        ((8, 0), NONE, "bfloat16", "native"),
        ((7, 5), ALL, "float16", "native"),
        (None, ALL, "bfloat16", "native"),
        (None, NONE, "float32", "native"),
    ],
)
def test_auto_takes_the_fastest_that_runs(
    capability: tuple[int, int] | None, packages: frozenset[str], precision: str, name: str
) -> None:
    choice = choose_attention("auto", facts(capability, packages, precision))
    assert choice.dispatcher == name
    assert choice.reason


def test_reason_names_what_would_be_faster_and_how_to_get_it() -> None:
    reason = choose_attention("auto", facts((9, 0), NONE)).reason
    assert reason.startswith("Hopper: the fastest that runs on cuda:0")
    assert "FlashAttention 3" in reason
    assert "hopper of github.com/Dao-AILab/flash-attention" in reason
    exact = choose_attention("auto", facts((9, 0), ALL, "float32")).reason
    assert "rows ask for float32" in exact


@pytest.mark.parametrize(
    ("asked", "where", "words"),
    [
        ("flash", facts((8, 0), NONE), "lynx_engine[flash]"),
        ("flash3", facts((9, 0), NONE), "build it from the folder hopper"),
        ("flash3", facts((8, 9), ALL), "compute capability 9.x and cuda:0 has 8.9"),
        ("cudnn", facts((7, 5), ALL, "float16"), "8.0 or newer"),
        ("cudnn", facts(None, ALL), "NVIDIA GPUs only and cpu is none"),
        ("cudnn", facts((9, 0), ALL, "float32"), "ask for float32"),
        ("flesh", facts((9, 0), ALL), "there is no attention 'flesh'"),
    ],
)
def test_backend_that_cannot_run_is_refused_with_the_cure(
    asked: str, where: DeviceFacts, words: str
) -> None:
    with pytest.raises(BackendError) as refused:
        choose_attention(asked, where)
    assert words in str(refused.value)
    assert "auto" in str(refused.value)


def test_command_hears_of_every_device_at_once_and_of_none_twice() -> None:
    devices = [facts((8, 0), NONE), facts((8, 0), NONE), facts(None, NONE), facts((9, 0), ALL)]
    with pytest.raises(RefusedError) as refused:
        check_attention("flash", devices)
    assert len(refused.value.problems) == 2
    check_attention("auto", devices)
    check_attention("native", devices)


def test_worker_fails_its_row_before_anything_is_loaded() -> None:
    with pytest.raises(RowError, match="GPUs only") as failed:
        attention_on(torch.device("cpu"), "cudnn", "bfloat16")
    assert failed.value.code is ErrorCode.WEIGHTS
    assert not failed.value.transient


def test_choice_is_logged_once_an_engine(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        attention_on(torch.device("cpu"), "auto", "float32")
    assert caplog.messages == ["attention: torch SDPA (native); a CPU runs no other"]


def test_module_answers_without_torch() -> None:
    code = (
        "import sys, lynx_engine.models.backends as b; b.installed_packages();"
        "sys.exit(bool({'torch', 'diffusers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert installed_packages() <= ALL


def step_with(attention: AttentionChoice) -> GuidedStep:
    return make_step(
        "lynx_full", SHAPE, device=torch.device("cpu"), dtype=torch.float32, attention=attention
    )


def _counted(
    called: list[str],
    name: AttentionBackendName,
    compute: Callable[..., object],
    *args: object,
    **more: object,
) -> object:
    called.append(str(name.value))
    return compute(*args, **more)


def called_backends(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows with the name of each backend that computes."""
    called: list[str] = []
    for name, compute in list(_AttentionBackendRegistry._backends.items()):
        counted = partial(_counted, called, name, compute)
        monkeypatch.setitem(_AttentionBackendRegistry._backends, name, counted)
    return called


def test_two_denoisers_with_two_backends_do_not_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    default = _AttentionBackendRegistry.get_active_backend()[0]
    native = step_with(choose_attention("auto", facts(None, NONE)))
    plain = step_with(MATH)
    called = called_backends(monkeypatch)
    with torch.inference_mode():
        for step, name in ((native, "native"), (plain, "_native_math"), (native, "native")):
            called.clear()
            with step.denoiser.clip("normal"):
                velocity = step.ours()
            assert set(called) == {name}
            torch.testing.assert_close(velocity, step.restated(), atol=2e-5, rtol=0)
    assert _AttentionBackendRegistry.get_active_backend()[0] == default


def test_strict_clips_and_reference_passes_use_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    step = step_with(MATH)
    called = called_backends(monkeypatch)
    with torch.inference_mode():
        with step.denoiser.clip("strict"):
            step.ours()
        step.denoiser.reference_features(step.latents[:, :, :1], text=step.texts[0])
        assert set(called) == {"native"}
        called.clear()
        step.ours()
    assert set(called) == {"_native_math"}
    assert step.denoiser.attention_for("strict").dispatcher == "native"


def test_backends_that_run_here_agree_and_the_others_are_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, length, 2, 64, generator=generator).to(device, torch.bfloat16)
        for length in (96, 40, 40)
    )
    scores = torch.einsum("bqnd,bknd->bnqk", query.double(), key.double()) / 8
    exact = torch.einsum("bnqk,bknd->bqnd", scores.softmax(-1), value.double())
    told: list[str] = []
    ran: list[str] = []
    for backend in (*BACKENDS, None):
        # Besides ours, the plain formula in torch: two can run even on a CPU.
        name = backend.dispatcher if backend else MATH.dispatcher
        obstacle = why_not(backend, facts_on(device, "bfloat16")) if backend else ""
        if obstacle:
            told.append(f"skipped {name}: {obstacle}")
            continue
        found = dispatch_attention_fn(query, key, value, backend=AttentionBackendName(name))
        error = (found.double() - exact).square().mean().sqrt()
        decibels = float(20 * torch.log10((exact.max() - exact.min()) / error))
        told.append(f"agrees {name}: {decibels:.1f} dB")
        ran.append(name)
        assert decibels >= 45, told[-1]
        assert (found.double() - exact).abs().max() < 0.03
    with capsys.disabled():
        sys.stdout.write("".join(f"\n  attention backend {line}" for line in told) + "\n")
    assert {"native", "_native_math"} <= set(ran)
    assert len(told) == len(BACKENDS) + 1
