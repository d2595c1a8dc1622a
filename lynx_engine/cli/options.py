"""Options that several commands share, so that each word means one thing everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

ManifestArgument = Annotated[
    Path, typer.Argument(help="Manifest: .yaml, .csv or .jsonl.", metavar="MANIFEST")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
CampaignArgument = Annotated[str, typer.Argument(help="Campaign name or manifest.")]
AnyCampaignArgument = Annotated[
    str | None, typer.Argument(help="Campaign name or manifest; every campaign by default.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Say only what went wrong.")]
OnlyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        metavar="FIELD=VALUE",
        help="Rows of one subject, prompt, variant or seed; repeat to widen or narrow.",
    ),
]
WorkspaceOption = Annotated[
    Path | None,
    typer.Option(
        "--workspace", metavar="DIR", help="Where the records are; else as settings find it."
    ),
]
LimitOption = Annotated[
    int | None, typer.Option("--limit", min=1, metavar="N", help="At most N rows.")
]
SkipOption = Annotated[
    bool,
    typer.Option("--skip-bad-rows", help="Fail rows with problems instead of refusing them all."),
]
DevicesOption = Annotated[
    str,
    typer.Option(metavar="LIST", help="auto (every GPU, else the CPU), cpu:2, or cuda:0,cuda:2."),
]
ClusterOption = Annotated[
    str,
    typer.Option(
        metavar="ADDRESS",
        help="Render on the workers of a running Dask cluster, as tcp://host:8786.",
    ),
]
LowVramOption = Annotated[
    bool,
    typer.Option(
        "--lowvram",
        help="Render every row with memory: low, for small GPUs; changes no pixel and no id.",
    ),
]
InProcessOption = Annotated[
    bool, typer.Option("--in-process", help="Without Prefect and Dask, for debugging.")
]

ModelsOption = Annotated[
    Path | None,
    typer.Option("--models", metavar="DIR", help="Folder of the weights, in the public layout."),
]
ModelPathOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model-path",
        metavar="NAME=PATH",
        help="Where an entry of that layout lies instead, as lynx_full=/weights/lynx; repeat for "
        "several. `model_paths` in lynx.toml says so for every command.",
    ),
]


def models_flags(models: Path | None, model_path: list[str] | None = None) -> dict[str, Any]:
    """Return `--models` and `--model-path` as settings; paths are of the current folder.

    Raises:
        RefusedError: If a `--model-path` has no equals sign, name or path.
    """
    from lynx_engine.errors import Problem, RefusedError

    pairs = [text.partition("=")[::2] for text in model_path or []]
    bad = [text for text, pair in zip(model_path or [], pairs, strict=True) if not all(pair)]
    if bad:
        advice = "write name=path, as in --model-path lynx_full=/weights/lynx"
        problems = [Problem("--model-path", f"'{text}' is not a pair; {advice}") for text in bad]
        raise RefusedError(problems, outcome="nothing was done")
    return {
        "models": None if models is None else models.absolute(),
        "model_paths": {name: Path(path).absolute() for name, path in pairs} or None,
    }


def parse_only(given: list[str] | None) -> list[tuple[str, str]]:
    """Return `--only field=value` options as pairs.

    Raises:
        RefusedError: If one has no equals sign.
    """
    from lynx_engine.errors import Problem, RefusedError

    pairs = [tuple(text.partition("=")[::2]) for text in given or []]
    bad = [text for text in given or [] if "=" not in text]
    if bad:
        advice = "write field=value, as in --only subject=host"
        raise RefusedError(Problem("--only", f"'{text}' is not a pair; {advice}") for text in bad)
    return [(field, value) for field, value in pairs]
