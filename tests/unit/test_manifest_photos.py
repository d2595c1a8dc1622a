"""Several photos of one subject: how they are written, what is refused, and what becomes of ids."""

from __future__ import annotations

import shutil
from datetime import date
from pathlib import Path

import jsonschema
import pytest
import yaml

from lynx_engine.errors import RefusedError
from lynx_engine.jobs import RenderJob
from lynx_engine.manifest.image_list import MAX_PHOTOS
from lynx_engine.manifest.matrix_schema import ManifestFile
from lynx_engine.manifest.read import read_manifest
from lynx_engine.planning import PhotoFacts, PlanFacts, plan_renders
from lynx_engine.settings import Settings
from lynx_engine.survey import gather_facts
from lynx_engine.variants import REGISTRY
from tests.support.jobs import astronaut
from tests.support.letters import in_words

YAML = """\
subjects: {{host: {{image: {image}, synthetic: true}}}}
rows: [{{subject: host, text: A person waves., variant: tiny}}]
"""
JSON_LINES = (
    '{{"subject": "host", "image": {image}, "synthetic": true, "prompt": "A person waves.", '
    '"variant": "tiny"}}\n'
)
CSV = "subject,image,synthetic,prompt,variant\nhost,{image},true,A person waves.,tiny\n"


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def images(name: str, text: str) -> tuple[Path, ...]:
    Path(name).write_text(text, encoding="utf-8")
    return read_manifest(name).subjects["host"].images


def letters(name: str, text: str) -> list[str]:
    with pytest.raises(RefusedError) as caught:
        images(name, text)
    return [in_words(problem) for problem in caught.value.problems]


def job(image: str) -> RenderJob:
    """The job of a subject whose photos have digests made from their names."""
    Path("m.yaml").write_text(YAML.format(image=image), encoding="utf-8")
    manifest = read_manifest("m.yaml")
    photos = {
        name: tuple(PhotoFacts(f"digest-{path.stem}", 512, 512) for path in subject.images)
        for name, subject in manifest.subjects.items()
    }
    facts = PlanFacts(
        today=date(2026, 11, 22),
        photos=photos,
        weights={name: f"weights-{name}" for name in REGISTRY},
    )
    (planned,) = plan_renders(manifest, facts).to_run
    return planned.job


def test_one_photo_and_a_list_are_read_in_order_in_yaml_and_json_lines() -> None:
    one, two = (Path("a.png"),), (Path("a.png"), Path("b.jpg"))
    assert images("m.yaml", YAML.format(image="a.png")) == one
    assert images("m.yaml", YAML.format(image="[a.png, b.jpg]")) == two
    assert images("m.jsonl", JSON_LINES.format(image='"a.png"')) == one
    assert images("m.jsonl", JSON_LINES.format(image='["a.png", "b.jpg"]')) == two


def test_a_csv_cell_holds_one_path_whatever_is_in_it() -> None:
    assert images("m.csv", CSV.format(image="a;b.png")) == (Path("a;b.png"),)


def test_rows_that_list_other_photos_of_one_subject_disagree() -> None:
    (letter,) = letters(
        "m.jsonl",
        JSON_LINES.format(image='["a.png", "b.png"]') + JSON_LINES.format(image='["b.png"]'),
    )
    assert letter.startswith("m.jsonl:2: image of subject 'host' is ['b.png'] here and ['a.png', ")


@pytest.mark.parametrize(
    ("image", "letter"),
    [
        ("[]", "m.yaml:1: image is an empty list; write at least one photo"),
        (
            str([f"{n}.png" for n in range(MAX_PHOTOS + 1)]),
            "m.yaml:1: image lists 17 photos; the most is 16. Keep the best ones",
        ),
        ("[a.png, 5]", 'm.yaml:1: image is 5, a number where text is due; quote it: "5"'),
        ("5", 'm.yaml:1: image is 5, a number where text is due; quote it: "5"'),
        ("[[a.png]]", "m.yaml:1: image is a list; it takes text"),
        (
            "[a.png, 'https://example.org/b.png']",
            "m.yaml:1: image is a URL; download the file and write its path",
        ),
        ("[a.png, '']", "m.yaml:1: image is empty or no path; write the file's path"),
    ],
)
def test_what_is_no_list_of_photos_is_refused_with_its_line(image: str, letter: str) -> None:
    assert letters("m.yaml", YAML.format(image=image)) == [letter]


def test_the_schema_for_editors_takes_a_path_or_a_list_within_the_limit() -> None:
    validator = jsonschema.Draft202012Validator(ManifestFile.model_json_schema())

    def is_taken(image: str) -> bool:
        return validator.is_valid(yaml.safe_load(YAML.format(image=image)))

    assert is_taken("a.png")
    assert is_taken(str([f"{n}.png" for n in range(MAX_PHOTOS)]))
    assert not is_taken(str([f"{n}.png" for n in range(MAX_PHOTOS + 1)]))
    assert not is_taken("[]")
    assert not is_taken("[5]")


def test_another_photo_or_another_order_is_another_request() -> None:
    ids = [job(image).job_id for image in ("a.png", "[a.png, b.png]", "[b.png, a.png]", "b.png")]
    assert len(set(ids)) == 4


def test_a_single_photo_keeps_the_id_it_had_before_there_were_lists() -> None:
    # Written down at the commit before lists of photos.
    before = "e3e5f210e715cf4404420424677cc910233f9e6c27e130a7675eb776c06e62ca"
    assert job("a.png").job_id == before
    assert job("[a.png]").job_id == before


def test_every_photo_of_a_subject_reaches_its_job_with_its_digest() -> None:
    both = job("[a.png, b.png]")
    assert both.photos == (Path("a.png"), Path("b.png"))
    assert both.photo_digests == ("digest-a", "digest-b")


def test_the_same_photo_twice_is_refused_whatever_it_is_called() -> None:
    shutil.copyfile(astronaut(), "a.png")
    shutil.copyfile(astronaut(), "b.png")
    text = YAML.format(image="[a.png, b.png, ./a.png, missing.png]")
    Path("m.yaml").write_text(text, encoding="utf-8")
    facts = gather_facts(read_manifest("m.yaml"), Settings(workspace=Path.cwd()))
    assert [in_words(problem) for problem in facts.photo_problems["host"]] == [
        "m.yaml:1: subject 'host': a.png and b.png are the same photo, byte for byte, which would "
        "count it double; remove one",
        "m.yaml:1: subject 'host': a.png is listed twice, which would count it double; remove one",
        "m.yaml:1: missing.png does not exist. Check the path; it is read from the manifest's "
        "folder.",
    ]
