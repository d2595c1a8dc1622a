"""What loading and waiting cost the host, measured in processes of their own.

The oracle is the kernel: /proc tells which pages are a process's own and which are the file's.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

Figure = Callable[[str], None]

MIB = 1 << 20
# 64 MiB a matrix, sixteen of them in four shards: 1 GiB of float32.
SIDE, SHARDS, MATRICES = 4096, 4, 4
WHOLE = SHARDS * MATRICES * SIDE * SIDE * 4
SHARD = WHOLE // SHARDS
# What Python and torch take for themselves while the interpreter works.
SLACK = 200 * MIB


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Write the shards of a made model, float32, with their index."""
    # Removed at once: pytest keeps the folders of three runs, and this is a gibibyte.
    with TemporaryDirectory() as name:
        _write_model(Path(name))
        yield Path(name)


def _write_model(folder: Path) -> None:
    weight_map: dict[str, str] = {}
    for shard in range(SHARDS):
        name = f"diffusion_pytorch_model-{shard + 1:05d}-of-{SHARDS:05d}.safetensors"
        tensors = {
            f"layers.{shard * MATRICES + n}.weight": torch.full((SIDE, SIDE), float(n))
            for n in range(MATRICES)
        }
        save_file(tensors, folder / name)
        weight_map |= dict.fromkeys(tensors, name)
    index = {"metadata": {"total_size": WHOLE}, "weight_map": weight_map}
    text = json.dumps(index)
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(text)


COMMON = """
import json, re, sys, threading, time
from pathlib import Path
import torch
from torch import nn
torch.set_num_threads(1)
from lynx_engine.models.residence import Residence
from lynx_engine.models.streaming import BlockStream
from lynx_engine.models.tensor_files import open_component

def memory(path="/proc/self/status"):
    found = re.findall(r"(\\w+):\\s+(\\d+) kB", open(path).read())
    return {name: int(kilobytes) * 1024 for name, kilobytes in found}

class Model(nn.Module):
    def __init__(self, layers, side):
        super().__init__()
        with torch.device("meta"):
            self.layers = nn.ModuleList(nn.Linear(side, side, bias=False) for _ in range(layers))

folder, layers, side = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
source = open_component(folder, stem="diffusion_pytorch_model")
"""

LOAD = """
class Elsewhere(Residence):
    # A device that is not the host: what was cast for it is gone from the host at once.
    def _place(self, name, numbers):
        extremes = super()._place(name, numbers)
        self.drop(name)
        return extremes

model = Model(layers, side)
kind = {"elsewhere": Elsewhere, "host": Residence}[sys.argv[4]]
residence = kind(model, source, device=torch.device("cpu"), dtypes=lambda _: torch.bfloat16)
torch.ones(2, 2).to(torch.bfloat16) @ torch.ones(2, 2, dtype=torch.bfloat16)
before, peak, done = memory(), {"RssAnon": 0, "VmRSS": 0}, threading.Event()

def watch():
    while not done.is_set():
        now = memory()
        for name in peak:
            peak[name] = max(peak[name], now[name])
        time.sleep(0.002)

thread = threading.Thread(target=watch)
thread.start()
residence.stay()
done.set()
thread.join()
print(json.dumps({name: peak[name] - before[name] for name in peak}))
"""

WAIT = """
blocks = [
    {"weight": tensor} for _, tensor in source.read(source.shapes)
]
before = memory("/proc/self/smaps_rollup")
stream = BlockStream(blocks, device=torch.device("cpu"), dtype=torch.bfloat16)
module = nn.Linear(side, side, bias=False, device="meta")
for number in range(layers):
    with stream.visiting(number, module):
        pass
print("walked", flush=True)
sys.stdin.readline()
after = memory("/proc/self/smaps_rollup")
maps = [m for m in Path("/proc/self/smaps").read_text().split("VmFlags") if str(folder) in m]

def sum_of(word):
    found = re.findall(rf"\\n{word}:\\s+(\\d+)", "".join(maps))
    return sum(int(kilobytes) * 1024 for kilobytes in found)

grown = after["Anonymous"] - before["Anonymous"]
told = {"grown": grown, "pss": sum_of("Pss"), "rss": sum_of("Rss"), "own": sum_of("Anonymous")}
print(json.dumps(told))
"""


def start(program: str, folder: Path, *more: str) -> subprocess.Popen[str]:
    words = [str(folder), str(SHARDS * MATRICES), str(SIDE), *more]
    return subprocess.Popen(
        [sys.executable, "-c", COMMON + program, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def last_json(process: subprocess.Popen[str]) -> dict[str, int]:
    out, _ = process.communicate("\n", timeout=200)
    assert process.returncode == 0
    told: Any = json.loads(out.splitlines()[-1])
    return told


@pytest.mark.parametrize("device", ["elsewhere", "host"])
def test_loading_holds_one_shard_of_the_file_and_never_the_float32_whole(
    folder: Path, figure: Figure, device: str
) -> None:
    # Where the host computes itself it holds its weights: half the file, in bfloat16.
    target = WHOLE // 2 if device == "host" else 0
    with start(LOAD, folder, device) as process:
        peak = last_json(process)
    anonymous, whole = peak["RssAnon"] - target, peak["VmRSS"] - target
    figure(
        f"HOST load, device {device}: file {WHOLE // MIB} MiB, largest shard {SHARD // MIB} MiB, "
        f"peak beyond the target {whole // MIB} MiB, of it anonymous {anonymous // MIB} MiB"
    )
    matrix = SHARD // MATRICES
    assert anonymous < matrix + SLACK
    assert whole < SHARD + matrix + SLACK
    # The probe sees what it should: without it both would pass on a loader that reads nothing.
    assert peak["VmRSS"] > SHARD // 2


def test_two_processes_that_stream_the_same_blocks_share_their_pages(
    folder: Path, figure: Figure
) -> None:
    processes = [start(WAIT, folder) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "walked\n"
    # Both have touched every page. The second one stays until the first one has looked.
    answers = [last_json(process) for process in processes]
    first = answers[0]
    figure(
        f"HOST waiting: file {WHOLE // MIB} MiB mapped by 2 processes, each touched "
        f"{first['rss'] // MIB} MiB, its share {first['pss'] // MIB} MiB, own copies "
        f"{first['own'] // MIB} MiB; two places of {SIDE * SIDE * 2 // MIB} MiB beside it"
    )
    assert first["rss"] > 0.9 * WHOLE
    assert first["pss"] < 0.6 * WHOLE
    assert all(answer["own"] == 0 for answer in answers)
    assert all(answer["grown"] < 2 * SIDE * SIDE * 2 + SLACK for answer in answers)
