"""`lynx-engine subjects`: every subject photo looked at, with advice and a contact sheet."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from lynx_engine.cli.options import JsonOption, ManifestArgument, QuietOption

if TYPE_CHECKING:
    from pathlib import Path

    from lynx_engine.errors import Problem
    from lynx_engine.manifest.values import Manifest
    from lynx_engine.preflight import PhotoReport
    from lynx_engine.settings import Settings

EXAMPLE = "Example: lynx-engine subjects manifests/quickstart.yaml"

_COLUMNS = ("subject", "photo", "faces", "face px", "sharpness", "turn", "light", "verdict")


def command(
    manifest: ManifestArgument,
    no_sheet: Annotated[
        bool, typer.Option("--no-sheet", help="Leave the contact sheet out.")
    ] = False,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Look for the face in every subject photo; say what is refused, and what could be better.

    Draws what it found into outputs/CAMPAIGN/subjects.html and subjects.png, for your eyes only.
    """
    from lynx_engine.cli.console import note, say, say_json, show_table
    from lynx_engine.errors import ExitCode, RefusedError
    from lynx_engine.likeness import with_outliers
    from lynx_engine.manifest.read import read_manifest
    from lynx_engine.preflight import faults, look_at_photos, photo_vault
    from lynx_engine.report.contact_sheet import write_contact_sheet
    from lynx_engine.settings import load_settings
    from lynx_engine.survey import gather_facts

    settings = load_settings(manifest)
    read = read_manifest(manifest, lenient=True)
    _check_subjects(read)
    vault = photo_vault(settings)
    reports = look_at_photos(read, gather_facts(read, settings), vault=vault)
    reports = with_outliers(reports, settings=settings, vault=vault)
    sheet: tuple[Path, ...] = ()
    if reports and not no_sheet:
        sheet = write_contact_sheet(settings.campaign_dir(read.campaign), read.campaign, reports)
    problems = faults(reports)
    consents = _consents(read, settings)
    if json:
        say_json({**_as_json(read, reports, problems, sheet), "consents": consents})
        if problems:
            raise typer.Exit(ExitCode.REFUSED)
        return
    if not quiet:
        if reports:
            show_table(read.campaign, _COLUMNS, (_cells(report) for report in reports))
        for report in reports:
            if report.remark:
                say(report.remark)
        for consent in consents:
            say(_consent_in_words(consent))
        say(_summary(read, reports, sheet))
    if read.problems or read.row_problems:
        name = shlex.quote(str(manifest))
        note(f"There are problems beside the photos: `lynx-engine check {name}` lists them.")
    if problems:
        raise RefusedError(problems, outcome="nothing would be rendered")


def _check_subjects(read: Manifest) -> None:
    """Refuse a manifest whose faults left no subject to look at.

    Raises:
        RefusedError: With every fault.
    """
    from lynx_engine.errors import RefusedError
    from lynx_engine.manifest.read import in_file_order

    found = (*read.problems, *read.row_problems)
    if found and not read.subjects:
        raise RefusedError(in_file_order(found), outcome="no photo was looked at")


def _cells(report: PhotoReport) -> tuple[object, ...]:
    faces = "-" if report.found is None else len(report.found.faces)
    words = ", ".join(advice.word for advice in report.advice)
    verdict = f"{report.verdict}: {words}" if words else report.verdict
    measures = report.measures
    if measures is None:
        return (report.subject, report.photo, faces, "-", "-", "-", "-", verdict)
    return (
        report.subject,
        report.photo,
        faces,
        f"{measures.size_px:.0f}",
        f"{measures.sharpness:.2f}",
        f"{measures.turn_deg:+.0f}°",
        f"{measures.mean_luma:.0f}",
        verdict,
    )


def _consents(read: Manifest, settings: Settings) -> list[dict[str, object]]:
    """Return each consent that is written, with the mark that records name it by.

    The mark is None until the first run has made the workspace key.
    """
    from lynx_engine.consent import consent_text
    from lynx_engine.provenance.environment import read_workspace_key
    from lynx_engine.provenance.record import consent_id

    key = read_workspace_key(settings.state_dir)
    return [
        {
            "subject": subject.name,
            "basis": subject.consent.basis,
            "expires": subject.consent.expires and subject.consent.expires.isoformat(),
            "consent_id": key and consent_id(consent_text(subject), key),
        }
        for subject in read.subjects.values()
        if subject.consent is not None
    ]


def _consent_in_words(consent: dict[str, object]) -> str:
    until = f" until {consent['expires']}" if consent["expires"] else ""
    mark = consent["consent_id"]
    named = f"consent_id {mark} in the log" if mark else "it gets its consent_id by the first run"
    return f"{consent['subject']}: consent by {consent['basis']}{until}; {named}."


def _summary(read: Manifest, reports: tuple[PhotoReport, ...], sheet: tuple[Path, ...]) -> str:
    verdicts = [report.verdict for report in reports]
    counts = [(word, verdicts.count(word)) for word in ("good", "poor", "refused")]
    told = ", ".join(f"{count} {word}" for word, count in counts if count)
    photos = f"{len(reports)} photo{'' if len(reports) == 1 else 's'}"
    if not reports:
        return f"{read.campaign}: no subjects, so no photos to look at."
    where = f" Contact sheet: {sheet[0]}" if sheet else ""
    return f"{read.campaign}: {photos}, {told}.{where}"


def _as_json(
    read: Manifest,
    reports: tuple[PhotoReport, ...],
    problems: tuple[Problem, ...],
    sheet: tuple[Path, ...],
) -> dict[str, object]:
    return {
        "campaign": read.campaign,
        "photos": [_photo_as_json(report) for report in reports],
        "problems": [problem.as_json() for problem in problems],
        "sheet": [str(path) for path in sheet],
    }


def _photo_as_json(report: PhotoReport) -> dict[str, object]:
    """Return a report without what a photo could be recognised by: no hash and no landmarks."""
    found, measures = report.found, report.measures
    faces = () if found is None else found.faces
    return {
        "subject": report.subject,
        "photo": str(report.photo),
        "verdict": report.verdict,
        "fault": None if report.fault is None else report.fault.text,
        "advice": [{"word": a.word, "text": a.text} for a in report.advice],
        "width_px": None if found is None else found.width_px,
        "height_px": None if found is None else found.height_px,
        "faces": [
            {
                "index": number,
                "box": [round(side, 1) for side in face.box],
                "confidence": round(face.confidence, 3),
            }
            for number, face in enumerate(faces)
        ],
        "chosen": report.chosen,
        "measures": None
        if measures is None
        else {
            "size_px": round(measures.size_px, 1),
            "sharpness": round(measures.sharpness, 4),
            "turn_deg": round(measures.turn_deg, 1),
            "tilt_deg": round(measures.tilt_deg, 1),
            "mean_luma": round(measures.mean_luma, 1),
            "dark_share": round(measures.dark_share, 3),
            "bright_share": round(measures.bright_share, 3),
        },
    }
