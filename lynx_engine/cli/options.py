"""Options that several commands share, so that each word means one thing everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
