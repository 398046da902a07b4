r"""The picture of a report, docs/report.png: `python docs/shoot.py RUN [BROWSER]`, with chromium and playwright.

    allegory train binarized-mnist --levels 2 --latent 40,20 --hidden 300 --batch-size 200 --lr 2e-3 --minutes 5 \
        --out runs/binarized-mnist

The training of the picture's run was ended by the clock, after four and a half minutes of a busy core.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

import allegory as al
from allegory.command import command_line
from allegory.views.layout import file_name

OUT = Path(__file__).with_name("report.png")
SIZE = {"width": 1080, "height": 1560}

if __name__ == "__main__":
    run, *browser = sys.argv[1:]
    opened = al.Run(run)
    command = command_line(file_name(opened.source), opened.config["command"])
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as browsers:
        page = opened.report(Path(folder) / "report.html", command=command, samples=200, examples=500)
        chromium = browsers.chromium.launch(executable_path=browser[0] if browser else shutil.which("chromium"))
        shown = chromium.new_page(viewport=SIZE)
        shown.goto(page.as_uri())
        shown.screenshot(path=OUT)
