"""Draws docs/prefect.png: Prefect's page of a campaign. `python -m docs.make_prefect_page`.

Needs the program chromium. One row kills its device on purpose, to show what that looks like.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from PIL import Image

from flows.server import lasting_server
from lynx_engine.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
MANIFEST = """\
campaign: autumn
defaults: {variant: tiny_lite, steps: 2}
subjects:
  astronaut: {image: astronaut.png, consent: {basis: public-domain}}
prompts: {beach: A person walks along a beach., pumpkin: A person carves a pumpkin.}
matrix: [{subject: astronaut, prompt: [beach, pumpkin], seed: 1..4}]
rows: [{text: fault=exit, variant: sleeper}]
"""
PAGES = {
    "/runs/flow-run/{run}": (255, 0, 1400, 510),
    "/artifacts/artifact/{table}": (255, 0, 1400, 620),
}


def ask(api: str, what: str) -> Any:
    """Return all of Prefect's objects of a kind."""
    request = urllib.request.Request(
        f"{api}/{what}/filter", data=b"{}", headers={"content-type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def picture_of(url: str, folder: Path) -> Image.Image:
    """Return a page as Chromium shows it."""
    shot = folder / "page.png"
    subprocess.run(
        [
            *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-background-networking", "--hide-scrollbars"),
            *("--window-size=1400,760", "--virtual-time-budget=20000"),
            *(f"--user-data-dir={folder}/chromium", f"--screenshot={shot}", url),
        ],
        capture_output=True,
        check=True,
        timeout=120,
    )
    return Image.open(io.BytesIO(shot.read_bytes())).convert("RGB")


def main() -> None:
    """Render a small campaign under a lasting server, and take its page's picture."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "lynx.toml").touch()
        (folder / "autumn.yaml").write_text(MANIFEST)
        shutil.copy(ROOT / "manifests/subjects/astronaut.png", folder)
        with lasting_server(Settings(workspace=folder)) as server:
            assert server is not None, "unset PREFECT_API_URL first"
            server.wait_until_ready()
            subprocess.run(
                ["lynx-engine", "render", "autumn.yaml", "--devices", "cpu:2"],
                cwd=folder,
                env={**os.environ, "PREFECT_API_URL": server.url},
                check=False,
            )
            (run,) = ask(server.url, "flow_runs")
            tables = [a["id"] for a in ask(server.url, "artifacts") if a["type"] == "table"]
            shots: list[Image.Image] = []
            for path, box in PAGES.items():
                page = server.url.removesuffix("/api") + path.format(run=run["id"], table=tables[0])
                shots.append(picture_of(page, folder).crop(box))
    sheet = Image.new("RGB", (shots[0].width, sum(shot.height for shot in shots)))
    top = 0
    for shot in shots:
        sheet.paste(shot, (0, top))
        top += shot.height
    sheet.quantize(128).save(ROOT / "docs/prefect.png", optimize=True)


if __name__ == "__main__":
    main()
