"""manifests/: the shipped examples run, the schema is fresh, and the README tells the truth."""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path

import jsonschema
import pytest
import yaml
from pydantic import BaseModel

from lynx_engine.errors import RefusedError
from lynx_engine.jobs import RenderPlan
from lynx_engine.manifest.matrix_schema import ManifestFile, MatrixEntry, manifest_json_schema
from lynx_engine.manifest.read import read_manifest
from lynx_engine.manifest.schema import (
    ConsentEntry,
    Defaults,
    GateEntry,
    LoraEntry,
    PromptEntry,
    RowEntry,
    SubjectEntry,
    VideoEntry,
)
from lynx_engine.manifest.tables import COLUMNS
from lynx_engine.planning import LoraFacts, PhotoFacts, PlanFacts, plan_renders
from lynx_engine.variants import REGISTRY

MANIFESTS = Path(__file__).parents[2] / "manifests"
README = (MANIFESTS / "README.md").read_text(encoding="utf-8")
SHIPPED = ("quickstart.yaml", "quickstart.csv", "product.yaml", "campaign.csv")
# A fenced manifest, and the refusal that follows it, if one does.
EXAMPLE = re.compile(r"```(yaml|csv|jsonl)\n(.*?)```\n(?:```text\n(.*?)```)?", re.DOTALL)
EXAMPLES = [match.groups() for match in EXAMPLE.finditer(README)]
MODELS: tuple[type[BaseModel], ...] = (
    ManifestFile,
    Defaults,
    VideoEntry,
    LoraEntry,
    SubjectEntry,
    ConsentEntry,
    PromptEntry,
    RowEntry,
    MatrixEntry,
    GateEntry,
)


def plan(path: Path | str) -> RenderPlan:
    """Plan a manifest whose photos, weights and LoRAs are all there, on 22 November 2026."""
    manifest = read_manifest(path, lenient=True)
    facts = PlanFacts(
        today=date(2026, 11, 22),
        photos={name: (PhotoFacts(name, 512, 512),) for name in manifest.subjects},
        weights=dict.fromkeys(REGISTRY, "fingerprint"),
        loras={
            lora.path: LoraFacts(lora.path, "d" * 64)
            for row in manifest.rows
            for lora in row.settings.loras or ()
        },
    )
    return plan_renders(manifest, facts)


@pytest.mark.parametrize(
    ("name", "clips"), list(zip(SHIPPED, (8, 8, 14, 7), strict=True)), ids=SHIPPED
)  # fmt: skip
def test_a_shipped_manifest_plans_its_clips_and_its_photos_are_there(name: str, clips: int) -> None:
    planned = plan(MANIFESTS / name)
    assert len(planned.to_run) == clips
    assert planned.problems == ()
    photos = {p.job.photos for p in planned.to_run}
    assert photos == {(MANIFESTS / "subjects/astronaut.png",)}
    assert (MANIFESTS / "subjects/astronaut.png").is_file()


def test_the_quickstart_asks_for_the_same_eight_clips_in_both_formats() -> None:
    ids = [
        {p.job.job_id for p in plan(MANIFESTS / name).to_run}
        for name in ("quickstart.yaml", "quickstart.csv")
    ]
    assert ids[0] == ids[1]
    first = plan(MANIFESTS / "quickstart.yaml").to_run[0].job
    assert (str(first.size), first.frames, first.steps) == ("64x64", 9, 4)


def test_the_committed_schema_is_the_generated_one() -> None:
    committed = (MANIFESTS / "manifest.schema.json").read_text(encoding="utf-8")
    assert committed == manifest_json_schema()


def test_the_schema_accepts_the_shipped_manifests_and_refuses_an_unknown_key() -> None:
    schema = json.loads(manifest_json_schema())
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    for name in ("quickstart.yaml", "product.yaml"):
        text = (MANIFESTS / name).read_text(encoding="utf-8")
        assert text.startswith("# yaml-language-server: $schema=manifest.schema.json\n")
        assert list(validator.iter_errors(yaml.safe_load(text))) == []
    wrong = {"rows": [{"text": "x", "stpes": 4}], "defaults": {"safety": True, "size": "64"}}
    found = sorted(error.message for error in validator.iter_errors(wrong))
    assert len(found) == 2
    assert "'64' does not match" in found[0]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_key_stands_in_a_table_with_meaning_unit_and_default(model: type[BaseModel]) -> None:
    for name, field in model.model_fields.items():
        extra = field.json_schema_extra
        assert isinstance(extra, dict)
        assert field.examples
        if model is MatrixEntry and name not in {"exclude", "zip"}:
            continue
        line = next(
            (x for x in README.splitlines() if x.startswith(f"| `{name}` | {field.description} |")),
            None,
        )
        assert line is not None, f"no table line for {name}: {field.description}"
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[3:5] == [extra["x-unit"], extra["x-default"]]
        assert cells[5].strip("`")


@pytest.mark.parametrize("column", COLUMNS)
def test_every_column_stands_in_the_table_of_columns(column: str) -> None:
    table = README.split("| column | meaning", 1)[1].split("\n\n", 1)[0]
    assert f"| `{column}` |" in table


@pytest.mark.parametrize(
    ("kind", "text", "refusal"),
    EXAMPLES,
    ids=[f"{number}-{kind}" for number, (kind, _, _) in enumerate(EXAMPLES)],
)
def test_every_example_of_the_readme_is_planned_or_refused_as_it_says(
    kind: str,
    text: str,
    refusal: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"manifest.{kind}"
    Path(name).write_text(text, encoding="utf-8")
    if refusal is None:
        assert plan(name).to_run
    else:
        with pytest.raises(RefusedError) as caught:
            plan(name)
        assert [str(problem) for problem in caught.value.problems] == refusal.splitlines()


def test_the_readme_has_examples_of_all_three_formats_taken_and_refused() -> None:
    assert {(kind, refusal is None) for kind, _, refusal in EXAMPLES} == {
        (kind, taken) for kind in ("yaml", "csv", "jsonl") for taken in (True, False)
    }
