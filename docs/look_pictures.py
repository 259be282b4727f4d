"""The pictures of docs/look.md, from real runs through a headless Chromium.

    python docs/look_pictures.py RUNS NAME STEP PLACE     (a folder of runs; one of them, one of its steps and attempts)

Needs playwright and Debian's chromium (make browser).
"""

from __future__ import annotations

import argparse
import shutil
import threading
import time
from pathlib import Path

import uvicorn
from playwright.sync_api import sync_playwright

from upslope.inspect.look.guard import address, new_token
from upslope.inspect.look.serve import listen_on, make_app

HERE = Path(__file__).parent
WIDTH, HEIGHT = 1240, 760


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("name")
    parser.add_argument("step", type=int)
    parser.add_argument("place", type=int)
    given = parser.parse_args()
    run = f"/run/{given.name.replace('/', '%2F')}"
    attempt = f"{run}/step/{given.step}/{given.place}?by=entropy"
    views = {
        "runs": ("/", "table.runs tbody tr"),
        "run": (run, ".charts canvas"),
        "step": (f"{run}/step/{given.step}", ".problem"),
        "attempt": (attempt, ".response .token"),
    }
    sock, token = listen_on(0), new_token()
    port = sock.getsockname()[1]
    app, events = make_app([given.runs], token, port)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True).start()
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, device_scale_factor=1.5)
        for name, (place, wait) in views.items():
            tab.goto(f"{address(token, port)}#{place}")
            tab.wait_for_selector(wait)
            time.sleep(1)  # curves are drawn after their places
            if name == "attempt":
                tab.locator(".response .token").nth(12).click()
            tab.screenshot(path=HERE / f"look-{name}.png")
            print(HERE / f"look-{name}.png")
        browser.close()
    events.closing = server.should_exit = True


if __name__ == "__main__":
    main()
