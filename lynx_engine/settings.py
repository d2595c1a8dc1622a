"""Where things live and how the program behaves: flags, then LYNX_*, then lynx.toml, then defaults.

Nothing here changes a pixel; what does is in the manifest.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Literal, cast

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from lynx_engine.errors import Problem, RefusedError, nearest
from lynx_engine.folders import ModelFolders

WORKSPACE_FILE = "lynx.toml"


def find_workspace(start: Path) -> Path | None:
    """Return the nearest folder at or above `start` that holds a lynx.toml, if there is one."""
    start = start.resolve()
    return next((p for p in (start, *start.parents) if (p / WORKSPACE_FILE).is_file()), None)


def _user_cache() -> Path:
    # An empty or relative XDG_CACHE_HOME counts as unset (XDG Base Directory specification 0.8).
    given = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(given) if Path(given).is_absolute() else Path.home() / ".cache") / "lynx_engine"


class Settings(BaseSettings):
    """One run's settings. Relative folders are relative to the workspace."""

    model_config = SettingsConfigDict(env_prefix="LYNX_", extra="forbid", frozen=True)

    workspace: Path = Field(default=Path(), description="Folder that holds outputs/ and .lynx/.")
    outputs: Path = Field(default=Path("outputs"), description="Where campaigns land.")
    state: Path = Field(default=Path(".lynx"), description="Prefect's files, locks, logs.")
    models: Path = Field(default=Path("models"), description="Weights in the public layout.")
    model_paths: dict[str, Path] = Field(
        default={}, description="Entries of the public layout that lie elsewhere: name = path."
    )
    # As HF_ENDPOINT is for the Hub: where releases on GitHub can only be had from a mirror.
    github: str = Field(
        default="https://github.com", description="Where `models pull` fetches release files."
    )
    cache: Path = Field(default_factory=_user_cache, description="Weights of the tiny variants.")
    # One thread: matrix sums split over threads round differently, and equal jobs promise equal
    # frames on every CPU. Two threads on two contended cores were also up to 30 times slower.
    threads: int = Field(default=1, ge=1, description="CPU threads of a worker.")
    attention: Literal["auto", "native", "cudnn", "flash", "flash3"] = Field(
        default="auto", description="Attention backend; auto takes the fastest that runs."
    )
    compile: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Compile the transformer's blocks; auto does on a GPU.",
    )
    server_start_s: float = Field(
        default=90.0, gt=0, description="Seconds the local Prefect server may take to start."
    )
    worker_start_s: float = Field(
        default=120.0, gt=0, description="Seconds a device process may take to say hello."
    )
    deadline_s: float = Field(
        default=1800.0,
        gt=0,
        description="Seconds without a sign of life before any step alike was measured.",
    )
    deadline_floor_s: float = Field(
        default=60.0, gt=0, description="Seconds without a sign of life that are always allowed."
    )
    consent: Literal["required", "warn", "off"] = Field(
        default="required",
        description="Rows of a face without a consent that holds: refused (required), rendered "
        "with a note (warn), or rendered unchecked (off). A withdrawn one is refused always.",
    )
    evaluator: str = Field(
        default="auto",
        description="Who scores likeness: auto, insightface, dlib, none, or module:function.",
    )
    classifiers: str = Field(
        default="auto",
        description="Who looks at finished frames: auto (all that are installed), none, or some "
        "of opennsfw, falconsai and your own module:function; NAME@0.5 is stricter than NAME.",
    )
    face_days: float = Field(
        default=30.0, gt=0, description="Days that what was computed of a face is kept."
    )
    producer: str = Field(
        default="lynx_engine",
        min_length=1,
        max_length=200,
        description="Who makes the clips, as their metadata says.",
    )
    credentials: Path | None = Field(
        default=None,
        description="Folder of the certificates that sign clips (`credentials init` makes a test "
        "one); without it clips are not signed.",
    )
    timestamps: str = Field(
        default="", description="Address of a time-stamp authority (RFC 3161) for signed clips."
    )
    report: bool = Field(default=True, description="Write report.html at the end of each run.")
    report_photos: bool = Field(
        default=False, description="Show a crop of each subject's photo in the report."
    )
    disk_check: bool = Field(
        default=True, description="Refuse to start when the clips will not fit on the disk."
    )

    @field_validator("classifiers", mode="before")
    @classmethod
    def _one_text(cls, value: object) -> object:
        """Take a list of names, too, as TOML may write it."""
        return ",".join(map(str, cast("list[object]", value))) if isinstance(value, list) else value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read flags first, then the environment, then the workspace's lynx.toml."""
        del dotenv_settings, file_secret_settings  # not places where this program is configured
        workspace = init_settings().get("workspace", Path())
        toml = TomlConfigSettingsSource(settings_cls, Path(workspace) / WORKSPACE_FILE)
        return (init_settings, env_settings, toml)

    @property
    def outputs_dir(self) -> Path:
        """The folder of all campaigns."""
        return self.workspace / self.outputs

    @property
    def state_dir(self) -> Path:
        """The folder of what may be deleted without losing a clip."""
        return self.workspace / self.state

    @property
    def models_dir(self) -> ModelFolders:
        """The folder of weights in the public layout, with the entries that lie elsewhere."""
        elsewhere = sorted((entry, self.workspace / p) for entry, p in self.model_paths.items())
        return ModelFolders(self.workspace / self.models, tuple(elsewhere))

    def campaign_dir(self, campaign: str) -> Path:
        """The folder of one campaign."""
        return self.outputs_dir / campaign


def load_settings(near: Path | None = None, **flags: object) -> Settings:
    """Gather the settings of the workspace.

    Args:
        near: A file or folder, such as a manifest. The workspace is the nearest folder upward of
            it that holds a lynx.toml, else that of the current folder, else the current folder.
        flags: Settings given on the command line; None counts as not given. A `workspace` among
            them is taken as it is.

    Raises:
        RefusedError: If lynx.toml or a LYNX_* variable holds an unknown or impossible value.
    """
    starts = [Path.cwd()] if near is None else [near, Path.cwd()]
    found = (find_workspace(start) for start in starts)
    workspace = next((path for path in found if path is not None), Path.cwd())
    given = {name: value for name, value in flags.items() if value is not None}
    workspace = Path(str(given.pop("workspace", workspace)))
    try:
        return Settings(workspace=workspace, **given)  # pyright: ignore[reportArgumentType]  # checked by pydantic
    except tomllib.TOMLDecodeError as error:
        problem = Problem(str(workspace / WORKSPACE_FILE), f"not valid TOML: {error}")
        raise RefusedError([problem], outcome="nothing was done") from None
    except SettingsError as error:
        raise RefusedError([_unparsed(error)], outcome="nothing was done") from None
    except ValidationError as error:
        problems = [_letter(workspace, str(e["loc"][0]), e["msg"]) for e in error.errors()]
        raise RefusedError(problems, outcome="nothing was done") from None


def _unparsed(error: SettingsError) -> Problem:
    """Return the letter for a variable that should hold JSON and does not."""
    del error  # it names the field only in words
    advice = """write JSON, as in '{"lynx_full": "/weights/lynx_full"}'"""
    return Problem("LYNX_MODEL_PATHS", f"not valid JSON; {advice}")


def _letter(workspace: Path, name: str, message: str) -> Problem:
    variable = f"LYNX_{name.upper()}"
    where = variable if variable in os.environ else str(workspace / WORKSPACE_FILE)
    if name not in Settings.model_fields:
        return Problem(where, f"unknown setting '{name}'{nearest(name, Settings.model_fields)}")
    return Problem(where, f"{name}: {message}")
