"""The picture of a report, docs/report.png: `python docs/shoot.py RUN [BROWSER]`, with chromium and playwright.

The run is one of `allegory train`; the recipe, and what it reached, are in recipes/levels.py.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

import allegory as al
from allegory.command import command_line

OUT = Path(__file__).with_name("report.png")
SIZE = {"width": 1080, "height": 1500}

if __name__ == "__main__":
    run, *browser = sys.argv[1:]
    opened = al.Run(run)
    command = command_line(opened.source, opened.config["command"])
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as browsers:
        page = opened.report(Path(folder) / "report.html", command=command, samples=500, examples=500)
        chromium = browsers.chromium.launch(executable_path=browser[0] if browser else shutil.which("chromium"))
        shown = chromium.new_page(viewport=SIZE)
        shown.goto(page.as_uri())
        shown.screenshot(path=OUT)
