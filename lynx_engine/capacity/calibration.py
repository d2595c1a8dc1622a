"""Keeps what was measured on this machine in one small file of the user's cache folder.

A file that is missing, damaged or of another version means "calibrate again" and is never an
error: nothing in it cannot be measured anew in a minute.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lynx_engine.capacity.cost import Speeds
from lynx_engine.digest import digest_mapping

FILE_NAME = "calibration.json"
VERSION = 1
ADVICE = "run lynx-engine doctor --calibrate"


@dataclass(frozen=True, slots=True)
class Calibration:
    """Speeds, and what they hold for.

    Attributes:
        device_name: The device's own name.
        torch_version: The release that computed.
        backend: What computed attention.
        precision: Type of the transformer.
        architecture: `Architecture.key`.
        threads: CPU threads of torch.
        measured_at: UTC, ISO 8601.
        speeds: What was measured.
    """

    device_name: str
    torch_version: str
    backend: str
    precision: str
    architecture: str
    threads: int
    measured_at: str
    speeds: Speeds

    @property
    def key(self) -> tuple[str, str, str, str, str]:
        """What one entry is kept for."""
        return (
            self.device_name,
            self.torch_version,
            self.backend,
            self.precision,
            self.architecture,
        )


@dataclass(frozen=True, slots=True)
class Calibrations:
    """All entries of a file.

    Attributes:
        entries: In the order they were measured.
        fault: Why the file could not be used, or "".
    """

    entries: tuple[Calibration, ...] = ()
    fault: str = ""

    def find(
        self, *, device_name: str, torch_version: str, precision: str, architecture: str
    ) -> Calibration | None:
        """Return the latest entry that holds for a device and a model, or None."""
        wanted = (device_name, torch_version, precision, architecture)
        for entry in reversed(self.entries):
            found = (entry.device_name, entry.torch_version, entry.precision, entry.architecture)
            if found == wanted:
                return entry
        return None


def read_calibrations(folder: Path) -> Calibrations:
    """Return what `folder` holds; damage is told as a fault, never raised."""
    path = folder / FILE_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != VERSION:
            return Calibrations(fault=f"{path} is of another version; {ADVICE}")
        if content["digest"] != digest_mapping({"entries": content["entries"]}):
            return Calibrations(fault=f"{path} was changed or damaged; {ADVICE}")
        return Calibrations(tuple(_entry(entry) for entry in content["entries"]))
    except FileNotFoundError:
        return Calibrations()
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        return Calibrations(fault=f"{path} cannot be read ({error!r}); {ADVICE}")


def keep_calibrations(folder: Path, measured: Iterable[Calibration]) -> Path:
    """Write new entries beside those that are kept, each replacing the one of its key.

    The file appears at once or not at all.

    Returns:
        The file.

    Raises:
        OSError: If it cannot be written.
    """
    kept = {entry.key: entry for entry in read_calibrations(folder).entries}
    for entry in measured:
        kept.pop(entry.key, None)
        kept[entry.key] = entry
    entries = [json.loads(json.dumps(asdict(entry))) for entry in kept.values()]
    content = {
        "version": VERSION,
        "digest": digest_mapping({"entries": entries}),
        "entries": entries,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE_NAME
    descriptor, temp = tempfile.mkstemp(prefix=f".{FILE_NAME}-", dir=folder)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        Path(temp).replace(path)
    finally:
        Path(temp).unlink(missing_ok=True)
    return path


def _entry(plain: dict[str, Any]) -> Calibration:
    speeds = {
        name: tuple(float(x) for x in value) if isinstance(value, list) else float(value)
        for name, value in plain["speeds"].items()
    }
    return Calibration(**{**plain, "speeds": Speeds(**speeds)})  # pyright: ignore[reportArgumentType]
