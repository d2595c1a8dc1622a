"""Model folders broken in every way we could think of: each named, with its file and its cure."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lynx_engine.digest import digest_file
from lynx_engine.engine import RenderEngine
from lynx_engine.errors import ErrorCode, RowError
from lynx_engine.folders import ModelFolders
from lynx_engine.loading import load_engine
from lynx_engine.rendering import EnginePlace
from lynx_engine.variants import get_variant
from lynx_engine.weights.audit import Verdict, verify
from lynx_engine.weights.fingerprint import weights_fingerprint
from lynx_engine.weights.lock import LockedFile, add_to_lock
from tests.faults.harness import describe
from tests.support.jobs import astronaut
from tests.support.weights import list_pickle, write_public_layout
from tests.support.workspaces import Workspace

Figure = Callable[[str], None]

BASE = "Wan2.1-T2V-14B-Diffusers"
SHARD = f"{BASE}/transformer/diffusion_pytorch_model-00004-of-00010.safetensors"
NEXT_SHARD = f"{BASE}/transformer/diffusion_pytorch_model-00005-of-00010.safetensors"
INDEX = f"{BASE}/transformer/diffusion_pytorch_model.safetensors.index.json"
VAE = f"{BASE}/vae/diffusion_pytorch_model.safetensors"
IP, REF, RESAMPLER = (
    f"lynx_full/{name}.safetensors" for name in ("ip_layers", "ref_layers", "resampler")
)
FACE = "arcface/recognition_arcface_ir_se50.pth"

CURES = (
    "Download",
    "`lynx-engine models pull lynx_full` fetches",
    "delete one of the two",
    "Mend the link",
    "Mend or delete it",
    "Remove it",
    "git lfs pull",
    "download both again",
    "Check that it belongs to this variant and this base",
    "Let the user who renders read it",
)


@dataclass(frozen=True)
class Kind:
    """One way to break a folder.

    Attributes:
        name: In words.
        file: The file that is damaged, below the models folder.
        says: Words of the letter: the tensor, or what is wrong.
        damage: Does it; gets the file's path.
        blames: Name of the file the letter must name, where it is another one.
    """

    name: str
    file: str
    says: str
    damage: Callable[[Path], object]
    blames: str = ""

    @property
    def named(self) -> str:
        return self.blames or Path(self.file).name


def rewrite(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    return lambda path: rewrite(path, change)


def first(found: dict[str, torch.Tensor]) -> str:
    return min(found)


def rename(found: dict[str, torch.Tensor]) -> None:
    name = first(found)
    found[f"{name}_ema"] = found.pop(name)


def cast(dtype: torch.dtype) -> Callable[[Path], None]:
    return tensors(lambda found: found.update({first(found): found[first(found)].to(dtype)}))


def config(**changes: object) -> Callable[[Path], int]:
    return lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def moved_tensor(path: Path) -> None:
    """Put a tensor of the next shard into this one; the index stays."""
    other = path.parents[2] / NEXT_SHARD
    name, moved = min(load_file(other).items())
    rewrite(other, lambda found: found.pop(name))
    rewrite(path, lambda found: found.update({name: moved}))


def doubled_tensor(path: Path) -> None:
    other = load_file(path.parents[2] / SHARD)
    rewrite(path, lambda found: found.update({first(other): other[first(other)]}))


def as_pickle(path: Path) -> None:
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()


def other_variant(path: Path) -> None:
    shutil.copy(path.parents[1] / "lynx_lite" / path.name, path)


def instead(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("../blobs/0123abcd")


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (str(self.path),))


def code(path: Path) -> None:
    path.write_bytes(pickle.dumps(Payload(path.with_name("ran")), protocol=2))


def other_recogniser(path: Path) -> None:
    """Leave the squeeze-and-excite gates out, as plain IR-50 has none."""
    found: dict[str, torch.Tensor] = torch.load(path, weights_only=True)
    torch.save({name: t for name, t in found.items() if "res_layer.5" not in name}, path)


def lock(path: Path) -> None:
    models = path.parents[1]
    facts = {"files": {FACE: {"sha256": "a" * 64}}}
    (models / "models.lock.json").write_text(json.dumps(facts))


def relisted(damage: Callable[[Path], object]) -> Callable[[Path], None]:
    """Damage the recogniser and list it so: what the reader sees once the digest let it pass."""

    def change(path: Path) -> None:
        damage(path)
        list_pickle(path, path.parents[1])

    return change


def listed_and_closed(path: Path) -> None:
    entry = LockedFile(digest_file(path), path.stat().st_size)
    add_to_lock(path.parents[1], {path.relative_to(path.parents[1]).as_posix(): entry})
    path.chmod(0)


def without_registers(found: dict[str, torch.Tensor]) -> None:
    del found["1.registers"]


def narrow(found: dict[str, torch.Tensor]) -> None:
    found["proj_out.weight"] = found["proj_out.weight"][:72].contiguous()
    for name in ("proj_out.bias", "norm_out.weight", "norm_out.bias"):
        found[name] = found[name][:72].contiguous()


def not_a_number(found: dict[str, torch.Tensor]) -> None:
    found["decoder.conv_in.weight"][0, 0, 0, 0, 0] = float("nan")


def whole_beside(path: Path) -> None:
    save_file({"a": torch.zeros(1)}, path.with_name("diffusion_pytorch_model.safetensors"))


def swap_text(old: str, new: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(path.read_text().replace(old, new))


def without_key(key: str) -> Callable[[Path], object]:
    def damage(path: Path) -> None:
        kept = {k: v for k, v in json.loads(path.read_text()).items() if k != key}
        path.write_text(json.dumps(kept))

    return damage


HTML = b"<!DOCTYPE html><html><body>404: entry not found</body></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 9\n"
TOKENIZER = f"{BASE}/tokenizer/tokenizer.json"
SCHEDULER = f"{BASE}/scheduler/scheduler_config.json"
TEXT_CONFIG = f"{BASE}/text_encoder/config.json"
TRANSFORMER_CONFIG = f"{BASE}/transformer/config.json"

KINDS = (
    Kind("shard missing", SHARD, "not there", Path.unlink),
    Kind("shard under another name", SHARD, "not there", lambda p: p.rename(f"{p}.part")),
    Kind("shard cut short", SHARD, "damaged or incomplete", cut),
    Kind("empty file", SHARD, "is empty", instead(b"")),
    Kind("git-lfs pointer", VAE, "git-lfs pointer", instead(POINTER)),
    Kind("web page saved as weights", IP, "web page", instead(HTML)),
    Kind("folder in place of a file", VAE, "is a folder, not a file", folder_instead),
    Kind("dangling link", REF, "is a link to ../blobs/0123abcd", dangling),
    Kind("pickle instead of safetensors", VAE, "beside it is a pickle", as_pickle),
    Kind("whole file beside its shards", INDEX, "beside the shards", whole_beside),
    Kind(
        "tensor missing from a shard",
        SHARD,
        "missing blocks.",
        tensors(lambda f: f.pop(first(f))),
        Path(INDEX).name,
    ),
    Kind("tensor renamed", REF, "unknown 0.to_k_ref.bias_ema", tensors(rename)),
    Kind(
        "tensor too many",
        VAE,
        "unknown extra.weight",
        tensors(lambda f: f.update({"extra.weight": torch.zeros(2)})),
    ),
    Kind("tensor in two shards", NEXT_SHARD, "holds too", doubled_tensor),
    Kind(
        "tensor in another shard than the index says",
        SHARD,
        "seeks in diffusion_pytorch_model-00005",
        moved_tensor,
    ),
    Kind("tensor of whole numbers", VAE, "decoder.conv_in.bias (I32)", cast(torch.int32)),
    Kind("tensor of 8-bit floats", REF, "0.to_k_ref.bias (F8_E4M3)", cast(torch.float8_e4m3fn)),
    Kind(
        "tensor of another shape",
        IP,
        "0.to_k_ip.bias [95] instead of [96]",
        tensors(lambda f: f.update({"0.to_k_ip.bias": torch.zeros(95)})),
    ),
    Kind("numbers that are not finite", VAE, "decoder.conv_in.weight", tensors(not_a_number)),
    Kind(
        "index naming a shard that is not there",
        INDEX,
        "not there",
        swap_text("00004-of", "00044-of"),
        "00044-of",
    ),
    Kind("index without metadata", INDEX, "not a safetensors index", without_key("metadata")),
    Kind(
        "index that leads out of its folder",
        INDEX,
        "outside its folder",
        swap_text(Path(SHARD).name, f"../vae/{Path(VAE).name}"),
    ),
    Kind(
        "config of another model",
        TRANSFORMER_CONFIG,
        "describes AutoencoderKLWan, not",
        lambda p: shutil.copy(p.parents[1] / "vae" / "config.json", p),
    ),
    Kind(
        "config that is no JSON", TRANSFORMER_CONFIG, "cannot be read", instead(b"{num_layers: 40}")
    ),
    Kind("config missing", TEXT_CONFIG, "not there", Path.unlink),
    Kind(
        "config of another text encoder",
        TEXT_CONFIG,
        "describes t5, not umt5",
        config(model_type="t5"),
    ),
    Kind(
        "config with an impossible value",
        TRANSFORMER_CONFIG,
        "describes no WanTransformer3DModel",
        config(num_attention_heads=0),
    ),
    Kind(
        "config of another size",
        INDEX,
        "blocks.3",
        lambda p: config(num_layers=4)(p.with_name("config.json")),
    ),
    Kind(
        "scheduler of another kind",
        SCHEDULER,
        "EulerDiscreteScheduler",
        config(_class_name="EulerDiscreteScheduler"),
    ),
    Kind("scheduler without its shift", SCHEDULER, "no flow schedule", without_key("flow_shift")),
    Kind("tokenizer missing", TOKENIZER, "not there", Path.unlink),
    Kind("tokenizer damaged", TOKENIZER, "cannot be read as a tokenizer", cut),
    Kind(
        "identity layers of lite in full", IP, "2 adapter layers where 3 are needed", other_variant
    ),
    Kind(
        "resampler of lite in full",
        IP,
        "different variants",
        lambda p: other_variant(p.with_name("resampler.safetensors")),
    ),
    Kind("resampler of another width", RESAMPLER, "72", tensors(narrow)),
    Kind("registers missing in one layer", IP, "missing 1.registers", tensors(without_registers)),
    Kind(
        "bias missing in one layer",
        REF,
        "missing 1.to_v_ref.bias",
        tensors(lambda f: f.pop("1.to_v_ref.bias")),
    ),
    Kind("recogniser of another architecture", FACE, "res_layer.5", relisted(other_recogniser)),
    Kind("recogniser that runs code", FACE, "plain tensors", relisted(code)),
    Kind("recogniser cut short", FACE, "plain tensors", relisted(cut)),
    Kind("recogniser other than the locked one", FACE, "models.lock.json says", lock),
    Kind("lock that is none", "models.lock.json", "not a lock file", lambda p: p.write_text("[]")),
    Kind("lock that is a folder", "models.lock.json", "not a lock file", folder_instead),
    Kind("file nobody may read", VAE, "Permission denied", lambda p: p.chmod(0)),
    Kind("file nobody may read, listed", REF, "Permission denied", listed_and_closed),
    Kind("recogniser nobody may read", FACE, "Permission denied", lambda p: p.chmod(0)),
    Kind("index nobody may read", INDEX, "Permission denied", lambda p: p.chmod(0)),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("whole")
    write_public_layout(models)
    return models


@pytest.fixture
def models(whole: Path) -> Iterator[Path]:
    # Outside of pytest's own folders, which only their owner may enter.
    with TemporaryDirectory() as name:
        yield copy_of(whole, Path(name))


def copy_of(whole: Path, folder: Path) -> Path:
    """Return a copy of the models that every user may read."""
    models = folder / "models"
    shutil.copytree(whole, models)
    for path in (folder, models, *models.rglob("*")):
        path.chmod(0o755)
    return models


@contextmanager
def rights_of(kind: Kind) -> Iterator[None]:
    """Be a user whom permissions concern."""
    if "nobody may read" not in kind.name or os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def load(models: Path) -> RenderEngine:
    """Do what a device process does: load, and place before the first row."""
    spec = get_variant("lynx_full")
    place = EnginePlace(
        device="cpu", precision="float32", models_dir=models, cache_dir=models.parent, threads=1
    )
    engine: Any = load_engine(spec, place).engine
    engine.place(engine._placer.placement)
    return engine


def letter_of(models: Path, kind: Kind) -> str:
    kind.damage(models / kind.file)
    with rights_of(kind), pytest.raises(RowError) as caught:
        load(models)
    assert caught.value.code is ErrorCode.WEIGHTS
    return str(caught.value)


def test_whole_folder_loads(models: Path) -> None:
    assert load(models).spec.name == "lynx_full"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_broken_folder_is_named_with_its_file_and_its_cure(models: Path, kind: Kind) -> None:
    letter = letter_of(models, kind)
    assert kind.named in letter
    assert kind.says in letter
    assert any(cure in letter for cure in CURES), letter
    assert "Traceback" not in letter
    assert "\n" not in letter
    assert not (models / "arcface" / "ran").exists()


def test_every_kind_has_a_letter_of_its_own(whole: Path, figure: Figure) -> None:
    letters: dict[str, str] = {}
    tracebacks = 0
    for kind in KINDS:
        with TemporaryDirectory() as name:
            models = copy_of(whole, Path(name))
            try:
                letters[kind.name] = letter_of(models, kind).replace(str(models), "")
            except Exception:  # noqa: BLE001  # counted, and told below
                tracebacks += 1
    named = sum(kind.named in letters.get(kind.name, "") for kind in KINDS)
    figure(describe("model_folders", kinds=len(KINDS), named=named, tracebacks=tracebacks))
    assert (named, tracebacks) == (len(KINDS), 0)
    alike = [name for name, letter in letters.items() if list(letters.values()).count(letter) > 1]
    # A file that is missing is one letter, whatever took it away.
    assert {letters[name].count(": not there; it comes from") for name in alike} == {1}
    assert len(KINDS) >= 30


def test_file_nobody_may_read_is_named_by_planning_and_by_verify_which_goes_on(
    models: Path,
) -> None:
    spec = get_variant("lynx_full")
    entries = [(spec, weight) for weight in spec.weights]
    (models / VAE).chmod(0)
    add_to_lock(models, {REF: LockedFile(digest_file(models / REF))})
    (models / REF).chmod(0)
    with rights_of(Kind("file nobody may read", VAE, "", Path.unlink)):
        with pytest.raises(RowError, match=f"{VAE}: cannot be read .Permission denied"):
            weights_fingerprint(spec, models)
        folders, cache = ModelFolders(models), models.parent
        found = {
            finding.name: finding.verdict
            for finding in verify(
                entries, folders, cache_dir=cache, record=False, on_file=lambda *_: None
            )
        }
    assert found.pop(REF) is Verdict.UNREADABLE
    assert set(found.values()) <= {Verdict.UNLISTED, Verdict.RIGHT}
    assert len(found) > 10


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    space = Workspace(tmp_path, {"LYNX_CACHE": str(tmp_path / "cache")})
    space.write("lynx.toml", "")
    shutil.copy(astronaut(), tmp_path / "host.png")
    space.write(
        "night.yaml",
        [
            "campaign: night",
            "defaults: {variant: lynx_full, frames: 5, size: 64x48, steps: 1,",
            "           safety: acknowledged-off, precision: float32}",
            "subjects:",
            "  host: {image: host.png, consent: {basis: public-domain}}",
            "rows:",
            "  - {subject: host, text: A person waves.}",
        ],
    )
    return space


@pytest.mark.parametrize(
    "name", ["shard missing", "shard cut short", "git-lfs pointer", "tensor of 8-bit floats"]
)
def test_user_who_renders_reads_the_same_letter_and_no_traceback(
    workspace: Workspace, models: Path, name: str
) -> None:
    kind = next(kind for kind in KINDS if kind.name == name)
    kind.damage(models / kind.file)
    done = workspace.run("render", "night.yaml", "--in-process", LYNX_MODELS=str(models))
    told = done.stdout + done.stderr
    assert done.returncode in {1, 2}
    assert kind.named in told
    assert kind.says in told
    assert "Traceback" not in told
    assert not workspace.clips("night")
