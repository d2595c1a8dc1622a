"""`lynx-engine models`: fetches weights, lists where they are, verifies them against the lock."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lynx_engine.cli.options import JsonOption, ModelPathOption, ModelsOption, models_flags

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from lynx_engine.settings import Settings
    from lynx_engine.variants.spec import VariantSpec
    from lynx_engine.weights.audit import Entry, EntryReport
    from lynx_engine.weights.origins import WeightSet
    from lynx_engine.weights.pull import PullObserver

EXAMPLE = """Examples:

lynx-engine models list

lynx-engine models pull lynx_full safety

lynx-engine models verify lynx_full --json"""

_ALL = "all"
_NAME_COLUMNS = 22

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", epilog=EXAMPLE)


@app.callback()
def group() -> None:
    """Fetch the weights of the big variants and of the safety check, see and verify them."""


@app.command(epilog="Example: lynx-engine models pull lynx_full --models /weights")
def pull(
    variants: Annotated[
        list[str],
        typer.Argument(help="Variants, safety, or all.", metavar="VARIANT...|safety|all"),
    ],
    sha256: Annotated[
        str,
        typer.Option(
            metavar="HEX",
            help="What you know the face recogniser's sha256 to be; its source publishes none.",
        ),
    ] = "",
    replace: Annotated[
        bool, typer.Option("--replace", help="Fetch over files that differ from their source.")
    ] = False,
    models: ModelsOption = None,
    model_path: ModelPathOption = None,
    json: JsonOption = False,
) -> None:
    """Fetch what the variants need and is not here; stopped, it goes on where it was.

    HF_ENDPOINT names a mirror of the Hub, HF_TOKEN who you are. The first pull pins the
    repository's commit and every digest in models.lock.json.
    """
    from dataclasses import asdict

    from lynx_engine.cli.console import say, say_json
    from lynx_engine.folders import bytes_in_words
    from lynx_engine.weights.lock import LOCK_NAME
    from lynx_engine.weights.pull import PullOptions
    from lynx_engine.weights.pull import pull as pull_weights

    stated = _checked_sha256(sha256)
    settings = _settings(models, model_path)
    specs = _chosen(variants)
    downloaded = [spec for spec in specs if _entries(spec)]
    options = PullOptions(
        cache_dir=settings.cache,
        github=settings.github,
        sha256=stated,
        replace=replace,
        disk_check=settings.disk_check,
    )
    with _watching(quiet=json) as observer:
        report = pull_weights(downloaded, settings.models_dir, options, observer)
    if json:
        say_json(
            {
                "models": str(settings.models_dir),
                "variants": [spec.name for spec in downloaded],
                "made_here": [spec.name for spec in specs if spec not in downloaded],
                **asdict(report),
            }
        )
        return
    for spec in specs:
        if spec not in downloaded:
            say(f"{spec.name}: nothing to pull; {_made_here(spec)}.")
    if downloaded:
        names = ", ".join(spec.name for spec in downloaded)
        size = bytes_in_words(sum(report.fetched.values()))
        say(
            f"{names}: complete in {settings.models_dir}. {_files(len(report.fetched))} fetched "
            f"({size}), {len(report.kept) + len(report.adopted)} here before. "
            f"{LOCK_NAME} lists them all."
        )


@app.command("list", epilog="Example: lynx-engine models list --json")
def list_all(
    models: ModelsOption = None, model_path: ModelPathOption = None, json: JsonOption = False
) -> None:
    """List what each variant and the safety check need, where it is, its size, and its licence."""
    from lynx_engine.cli.console import say_json, show_table
    from lynx_engine.variants import WEIGHT_SETS, all_variants
    from lynx_engine.weights.audit import look_at

    settings = _settings(models, model_path)
    found: list[tuple[Entry, EntryReport]] = [
        (entry, look_at(entry, settings.models_dir, cache_dir=settings.cache))
        for spec in (*all_variants().values(), *WEIGHT_SETS.values())
        for entry in _entries(spec)
    ]
    made = [spec for spec in all_variants().values() if not _entries(spec)]
    if json:
        say_json(
            [_as_json(entry, report) for entry, report in found]
            + [{"variant": s.name, "state": "made here", "told": _made_here(s)} for s in made]
        )
        return
    rows: list[tuple[str, ...]] = [
        (spec.name, report.entry, report.state, _size(report), weight.licence, str(report.place))
        for (spec, weight), report in found
    ]
    rows += [
        (spec.name, "-", "made here", "-", spec.weights[0].licence, _made_here(spec))
        for spec in made
        if spec.weights
    ]
    show_table("", ("variant", "weights", "state", "size", "licence", "where"), rows)


@app.command(epilog="Example: lynx-engine models verify lynx_full --models /weights")
def verify(
    variants: Annotated[
        list[str] | None,
        typer.Argument(
            help="Variants, or safety; whatever is here by default.", metavar="[VARIANT...]"
        ),
    ] = None,
    record: Annotated[
        bool,
        typer.Option("--record", help="List files that the lock does not know, as they are now."),
    ] = False,
    models: ModelsOption = None,
    model_path: ModelPathOption = None,
    json: JsonOption = False,
) -> None:
    """Read every byte and compare with models.lock.json; exit 4 if a file differs or is missing.

    A file that the lock does not list cannot be verified, which is exit 4 too; --record lists it
    as it is, for those who have no network and trust what they copied.
    """
    from lynx_engine.cli.console import say, say_json
    from lynx_engine.errors import ExitCode
    from lynx_engine.weights.audit import Verdict, has_anything
    from lynx_engine.weights.audit import verify as verify_files

    settings = _settings(models, model_path)
    folders = settings.models_dir
    entries = [entry for spec in _chosen(variants or [_ALL]) for entry in _entries(spec)]
    if not variants:
        entries = [entry for entry in entries if has_anything(entry, folders)]
    with _watching(quiet=json) as observer:
        found = list(
            verify_files(
                entries,
                folders,
                cache_dir=settings.cache,
                record=record,
                on_file=observer.checking,
            )
        )
    fine = {Verdict.RIGHT, Verdict.RECORDED, Verdict.EXTRA}
    code = ExitCode.OK if all(f.verdict in fine for f in found) else ExitCode.DAMAGED
    if json:
        told = [{"file": f.name, "verdict": f.verdict, "told": f.told} for f in found]
        say_json({"models": str(folders), "files": told, "exit_code": int(code)})
    elif entries:
        for finding in found:
            if finding.verdict is not Verdict.RIGHT:
                say(finding.told)
        right = sum(finding.verdict is Verdict.RIGHT for finding in found)
        wrong = sum(finding.verdict not in fine for finding in found)
        listed = f"as {folders / 'models.lock.json'} says"
        say(f"{_files(right)} {listed}, {wrong} not." if wrong else f"{_files(right)} {listed}.")
        if code:
            say("`lynx-engine models pull VARIANT --replace` fetches what differs or is missing.")
    elif variants:
        for spec in _chosen(variants):
            say(f"{spec.name}: nothing to verify; {_made_here(spec)}.")
    else:
        say(
            f"Nothing to verify: no weights are in {folders}. `lynx-engine models pull VARIANT` "
            "fetches some; LYNX_MODELS or --models names another folder."
        )
    raise typer.Exit(code)


def _settings(models: Path | None, model_path: list[str] | None) -> Settings:
    from lynx_engine.settings import load_settings
    from lynx_engine.variants import check_entries

    settings = load_settings(**models_flags(models, model_path))
    check_entries(settings.model_paths)
    return settings


def _chosen(names: list[str]) -> list[VariantSpec | WeightSet]:
    """Return the variants, and the sets of weights of their own, of these names.

    Raises:
        RefusedError: Naming every unknown one.
    """
    from lynx_engine.errors import Problem, RefusedError, nearest
    from lynx_engine.variants import REGISTRY, WEIGHT_SETS, all_variants, get_variant

    if names == [_ALL]:
        return [*all_variants().values(), *WEIGHT_SETS.values()]
    known = [*REGISTRY, *WEIGHT_SETS, _ALL]
    wrong = [
        Problem(name, f"unknown variant{nearest(name, known) or f'; it is one of {every}'}")
        for every in [", ".join(known)]
        for name in names
        if name not in known
    ]
    if wrong:
        raise RefusedError(wrong, outcome="nothing was done")
    return [WEIGHT_SETS.get(name) or get_variant(name) for name in dict.fromkeys(names)]


def _entries(spec: VariantSpec | WeightSet) -> list[Entry]:
    return [(spec, weight) for weight in spec.weights if weight.origin is not None]


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def _made_here(spec: VariantSpec | WeightSet) -> str:
    if not spec.weights:
        return "it has no weights"
    return "its weights are made on this machine at the first render"


def _checked_sha256(given: str) -> str:
    from lynx_engine.errors import Problem, RefusedError

    if given and not re.fullmatch("[0-9a-fA-F]{64}", given):
        told = f"'{given}' is no sha256, which has 64 characters 0-9 and a-f"
        raise RefusedError([Problem("--sha256", told)], outcome="nothing was done")
    return given.lower()


def _size(report: EntryReport) -> str:
    from lynx_engine.folders import bytes_in_words

    here = bytes_in_words(report.here_bytes)
    if report.listed_bytes is None or report.listed_bytes == report.here_bytes:
        return here
    return f"{here} of {bytes_in_words(report.listed_bytes)}"


def _as_json(entry: Entry, report: EntryReport) -> dict[str, object]:
    spec, weight = entry
    return {
        "variant": spec.name,
        "weights": report.entry,
        "state": report.state,
        "where": str(report.place),
        "bytes": report.here_bytes,
        "listed_bytes": report.listed_bytes,
        "licence": weight.licence,
        "source": weight.source,
        "lacking": report.lacking,
    }


def _short(name: str) -> str:
    """Return a file's name, cut so that bar and ETA fit beside it in 80 columns."""
    last = name.rpartition("/")[2]
    return last if len(last) <= _NAME_COLUMNS else f"…{last[1 - _NAME_COLUMNS :]}"


class _Quiet:
    """Says only why nothing happens."""

    def waiting(self, holder: str) -> None:
        from lynx_engine.cli.console import note

        note(f"Waiting for {holder}, which pulls into this folder.")

    def checking(self, name: str, size: int) -> None:
        del name, size

    def fetching(self, name: str, done: int, total: int) -> None:
        del name, done, total


class _Bars(_Quiet):
    """A bar with its ETA for what is fetched, and the name of the file in hand."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def checking(self, name: str, size: int) -> None:
        from lynx_engine.folders import bytes_in_words

        self._show(f"checking {_short(name)}", 0, None, bytes_in_words(size))

    def fetching(self, name: str, done: int, total: int) -> None:
        from lynx_engine.folders import bytes_in_words

        told = f"{bytes_in_words(done)} of {bytes_in_words(total)}" if total else ""
        self._show(f"fetching {_short(name)}", done, total or None, told)

    def _show(self, description: str, done: int, total: int | None, told: str) -> None:
        from lynx_engine.cli.console import visible

        if self._task is None:
            self._task = self._progress.add_task("", told="")
        self._progress.update(
            self._task, description=visible(description), completed=done, total=total, told=told
        )


@contextmanager
def _watching(*, quiet: bool) -> Generator[PullObserver]:
    from lynx_engine.cli.console import progress_bars, stderr_is_terminal

    if quiet or not stderr_is_terminal():
        yield _Quiet()
        return
    with progress_bars() as progress:
        yield _Bars(progress)
