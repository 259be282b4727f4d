"""Every view in a real browser: what is shown, what keys do, that it is live, that what a model writes is only text.

Needs Debian's chromium and playwright; skipped where one of them is missing.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import uvicorn
from made_runs import made_run

from upslope.inspect.look.guard import address
from upslope.inspect.look.serve import listen_on, make_app

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright)")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (make browser)"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
PATIENCE = 20_000
"""Milliseconds that a view may take on a busy machine."""


class Served:
    """A page over some folders, on a thread."""

    def __init__(self, *roots: Path) -> None:
        self._socket = listen_on(0)
        port = self._socket.getsockname()[1]
        app, self._events = make_app(roots, "T", port)
        self.address = address("T", port)
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)

    def __enter__(self) -> Served:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._events.closing = True
        self._server.should_exit = True
        self._thread.join(timeout=20)
        self._socket.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


class Seen:
    """A tab, and everything in it that went wrong."""

    def __init__(self, browser: Any, served: Served, **how: Any) -> None:
        self.tab = browser.new_page(**how)
        self.tab.set_default_timeout(PATIENCE)
        self.wrong: list[str] = []
        self.asked: list[str] = []
        self._served = served
        self.tab.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.tab.on("console", lambda said: self.wrong.append(said.text) if said.type == "error" else None)
        self.tab.on("request", lambda request: self.asked.append(request.url))
        self.tab.on("dialog", lambda dialog: (self.wrong.append(f"dialog {dialog.message}"), dialog.dismiss()))

    def go(self, place: str, wait: str) -> Any:
        self.tab.goto(f"{self._served.address}#{place}")
        self.tab.wait_for_selector(wait)
        return self.tab


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for seed in range(2):
        made_run(tmp_path / "runs" / f"grpo-{seed}", 12, settings={"seed": seed})
    made_run(tmp_path / "runs" / "sick", 12, rows={"truncated": 0.8}, settings={"problems": 3})
    return tmp_path / "runs"


def test_every_view_shows_what_it_is_for(browser: Any, runs: Path) -> None:
    with Served(runs) as served:
        seen = Seen(browser, served)
        tab = seen.go("/", "table.runs tbody tr")
        assert tab.locator("table.runs tbody tr").count() == 3
        assert "20.0 %" in tab.inner_text("table.runs") and "70.0 %" in tab.inner_text("table.runs")
        tab = seen.go("/run/sick", ".why li")
        assert "Most attempts are cut off" in tab.inner_text(".why")
        tab.wait_for_selector(".chart canvas")
        assert 0 < tab.locator(".chart canvas").count() < tab.locator(".chart").count()  # the others are far below
        tab.evaluate("() => dispatchEvent(new Event('beforeprint'))")
        tab.wait_for_function("() => document.querySelectorAll('.chart:not(:has(canvas))').length === 0")
        assert tab.locator(".chart canvas").count() > 10
        tab = seen.go("/run/grpo-0/step/3", ".problem")
        assert "3 of 4 problems teach something" in tab.inner_text("main")
        assert tab.locator(".problem.mixed").count() == 3
        tab = seen.go("/run/grpo-0/step/3/5", ".token")
        assert tab.locator(".response .token").count() == 12
        assert tab.locator(".response .token.world").count() == 2
        tab = seen.go("/search/grpo-0?text=step 3", ".found tr")
        assert tab.locator(".found tr").count() == 16
        tab = seen.go("/compare?run=grpo-0&run=grpo-1&run=sick", ".legend")
        assert "grpo-0 and 1 more seed" in tab.inner_text("main")
        assert seen.wrong == []
        assert all(url.startswith((served.address, "data:")) for url in seen.asked)
        tab.close()


def test_a_token_says_its_numbers_and_its_colour_is_what_is_asked(browser: Any, runs: Path) -> None:
    with Served(runs) as served:
        seen = Seen(browser, served)
        tab = seen.go("/run/grpo-0/step/3/4?by=push", ".token")
        told = tab.evaluate("fetch('api/attempt?run=grpo-0&step=3&place=4').then(r => r.json())")["attempt"]
        tab.hover('[data-place="2"]')
        tab.wait_for_selector(".token-facts")
        words = tab.inner_text(".token-facts")
        assert "token 2" in words and "what else it could have said" in words
        assert f"{told['entropy'][2]:.3g}"[:4] in words
        colours = [tab.locator(f'[data-place="{i}"]').evaluate("t => t.style.background") for i in range(12)]
        for place, (colour, push) in enumerate(zip(colours, told["push"], strict=True)):
            if not told["mask"][place]:
                assert colour == ""
            else:
                assert ("30, 110, 220" in colour) == (push > 0)
        tab.click('[data-place="3"]')
        tab.hover('[data-place="7"]')
        assert "token 3" in tab.inner_text(".token-facts")
        tab.keyboard.press("2")
        tab.wait_for_function("() => document.querySelector('button.on').textContent.includes('advantage')")
        assert "by=advantage" in tab.evaluate("location.hash")
        assert seen.wrong == []
        tab.close()


def test_keys_lead_from_the_runs_to_an_attempt_and_back(browser: Any, runs: Path) -> None:
    with Served(runs) as served:
        seen = Seen(browser, served)
        tab = seen.go("/", "table.runs tbody tr")
        ways = [
            ("j", None),
            ("k", None),
            ("?", ".help"),
            ("?", None),
            ("Enter", ".charts"),
            ("l", ".problem"),
            ("h", ".problem"),
            ("Enter", ".token"),
            ("j", ".token"),
            ("Escape", ".problem"),
            ("Escape", ".charts"),
            ("/", "form.search"),
        ]
        for key, wait in ways:
            tab.keyboard.press(key)
            if wait:
                tab.wait_for_selector(wait)
        for wait in (".charts", "table.runs"):
            tab.keyboard.press("Escape")
            tab.wait_for_selector(wait)
        for name in ("grpo-0", "sick"):
            tab.click(f'input[aria-label="tick {name}"]')
        tab.keyboard.press("c")
        tab.wait_for_selector(".legend")
        assert seen.wrong == []
        tab.close()


def test_it_is_live_while_a_run_trains(browser: Any, runs: Path) -> None:
    with Served(runs) as served:
        seen = Seen(browser, served)
        tab = seen.go("/run/grpo-0", ".charts canvas")
        assert "12 of 12 steps" in tab.inner_text(".facts")
        with (runs / "grpo-0" / "journal.jsonl").open("a") as file:
            file.write(json.dumps({"kind": "step", "step": 12, "reward": 0.9, "num_tokens": 5}) + "\n")
        tab.wait_for_function("() => document.querySelector('.facts').innerText.includes('13 of 12 steps')")
        other = seen.go("/", "table.runs tbody tr")
        made_run(runs / "newcomer", 3)
        other.wait_for_function("() => document.querySelector('table.runs').innerText.includes('newcomer')")
        assert seen.wrong == []
        tab.close()


def test_ten_tabs_are_all_live(browser: Any, runs: Path) -> None:
    """A browser keeps six connections to a server; a stream of its own for each tab would leave the seventh waiting."""
    with Served(runs) as served, browser.new_context() as window:
        tabs = [window.new_page() for _ in range(10)]
        for place, tab in enumerate(tabs):
            tab.goto(f"{served.address}#/run/grpo-{place % 2}")
            tab.wait_for_selector(".charts canvas", timeout=PATIENCE)
        with (runs / "grpo-0" / "journal.jsonl").open("a") as file:
            file.write(json.dumps({"kind": "step", "step": 12, "reward": 0.9, "num_tokens": 5}) + "\n")
        for place, tab in enumerate(tabs):
            tab.bring_to_front()  # one that nobody looks at waits until somebody does
            shown = "13 of 12 steps" if place % 2 == 0 else "12 of 12 steps"
            tab.wait_for_function(
                "shown => document.querySelector('.facts').innerText.includes(shown)", arg=shown, timeout=PATIENCE
            )


def test_a_broken_run_is_shown_with_its_trouble(browser: Any, runs: Path) -> None:
    (runs / "sick" / "run.toml").write_text("= none")
    (runs / "sick" / "rollouts" / "step-000003.parquet").write_bytes(b"PAR1 no table PAR1")
    with (runs / "sick" / "journal.jsonl").open("ab") as file:
        file.write(b"\xff\xfe\n")
    with Served(runs) as served:
        seen = Seen(browser, served)
        assert "run.toml" in seen.go("/run/sick", ".wrong").inner_text(".wrong")
        assert "cannot read the attempts" in seen.go("/run/sick/step/3", ".wrong").inner_text("main")
        assert "no attempts of step 99" in seen.go("/run/sick/step/99", "text=no attempts of step 99").inner_text(
            "main"
        )
        assert "there is no run" in seen.go("/run/none", "text=there is no run").inner_text("main")
        assert seen.go("/run/grpo-0", ".charts canvas").locator(".wrong").count() == 0
        seen.tab.close()


MARKUP = [
    "<script>window.hit=1</script>",
    "<img src=x onerror='window.hit=1'>",
    "<svg onload=window.hit=1>",
    "</pre><script>hit=1</script>",
    "<iframe src='javascript:parent.hit=1'>",
    "<a href='javascript:window.hit=1'>x</a>",
    "<body onload=hit=1>",
    "<b>bold</b>",
    "<style>*{display:none}</style>",
    "<link rel=stylesheet href=//evil.example/x.css>",
    "<meta http-equiv=refresh content='0;url=//evil.example'>",
    "<base href=//evil.example/>",
    "<form action=//evil.example><input></form>",
    "<object data=x></object>",
    "<embed src=x>",
    "<video src=x onerror=hit=1>",
    "<details open ontoggle=hit=1>",
    "<math><mtext></mtext></math>",
    "<!-- comment -->",
    "<![CDATA[x]]>",
    "&lt;script&gt;",
    "&#60;script&#62;hit=1&#60;/script&#62;",
    "${window.hit=1}",
    "{{constructor.constructor('hit=1')()}}",
    "`${hit=1}`",
    "javascript:hit=1",
    "data:text/html,<script>hit=1</script>",
    '" onmouseover="hit=1',
    "' onmouseover='hit=1",
    "\\u003cscript\\u003e",
    "<scr<script>ipt>hit=1</script>",
    "<SCRIPT>hit=1</SCRIPT>",
    "<script\x0b>hit=1</script>",
    "<img/src/onerror=hit=1>",
    "<x onclick=hit=1>x",
    "<template><script>hit=1</script></template>",
    "<noscript><p title='</noscript><img src=x onerror=hit=1>'>",
    "<textarea></textarea><script>hit=1</script>",
    "<title></title><script>hit=1</script>",
    "]]><script>hit=1</script>",
    "*/hit=1/*",
    "';hit=1;//",
    "</script><script>hit=1</script>",
    "<marquee onstart=hit=1>",
    "<input autofocus onfocus=hit=1>",
    "<select autofocus onfocus=hit=1>",
    "<audio src onerror=hit=1>",
    "%3Cscript%3Ehit=1%3C/script%3E",
    "<plaintext>",
    "<isindex type=image src=1 onerror=hit=1>",
]


def test_what_a_model_writes_is_text_and_nothing_else(browser: Any, tmp_path: Path) -> None:
    assert len(MARKUP) == 50
    for number, words in enumerate(MARKUP):
        made_run(
            tmp_path / f"run {number}", 1, problems=1, samples=1, words=words,
            settings={"model": words, "task": {"name": words}},
            problem=words, prompt_text=words, extracted=words, response_pieces=[words] * 12, prompt_pieces=[words],
        )  # fmt: skip
    with Served(tmp_path) as served:
        seen = Seen(browser, served)
        for number, words in enumerate(MARKUP):
            for place, wait in (("/step/0", ".problem"), ("/step/0/0", ".token")):
                tab = seen.go(f"/run/run {number}{place}", wait)
                tab.wait_for_function(
                    "words => document.body.innerText.includes(words)", arg=words.replace("\x0b", "")[:6]
                )
                assert tab.evaluate("window.hit") is None
            assert tab.locator(".response .token").first.text_content() == words.replace("\x0b", "␋")
            assert (
                tab.locator("main script, main iframe, main img, main style, main link, main form, main object").count()
                == 0
            )
        tab = seen.go("/", "table.runs tbody tr")
        assert tab.locator("table.runs tbody tr").count() == 50
        assert tab.evaluate("window.hit") is None
        assert seen.wrong == []
        assert all(url.startswith((served.address, "data:")) for url in seen.asked)
        tab.close()


def test_it_is_readable_in_the_dark(browser: Any, runs: Path) -> None:
    with Served(runs) as served:
        for scheme in ("light", "dark"):
            seen = Seen(browser, served, color_scheme=scheme)
            tab = seen.go("/run/grpo-0/step/3/5", ".token")
            back, ink = tab.evaluate(
                "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
            )
            assert abs(brightness(back) - brightness(ink)) > 0.5
            assert (brightness(back) < 0.3) == (scheme == "dark")
            tab.close()


def brightness(colour: str) -> float:
    """0 black, 1 white, of ``rgb(r, g, b)``."""
    return sum(int(part) for part in colour[4:-1].split(",")) / (3 * 255)


SEEN = {
    "": "∅",
    "\n": "⏎\n",
    "\x1b[31m": "␛[31m",
    "\x00": "␀",
    "\x7f\x9b": "␡⟨009B⟩",
    "\u202eab": "⟨202E⟩ab",
    "\u200b": "⟨200B⟩",
    "\ufeff": "⟨FEFF⟩",
    "\U000e0041": "⟨E0041⟩",
    "می\u200cخواهم": "می\u200cخواهم",
    "👩\u200d🚀": "👩\u200d🚀",
    "e\u0301": "e\u0301",
}
"""What a token says, and what is shown of it."""


def test_every_token_is_seen_whatever_it_is_made_of(browser: Any, tmp_path: Path) -> None:
    made_run(tmp_path / "run", 1, problems=1, samples=1, tokens=len(SEEN), response_pieces=list(SEEN))
    with Served(tmp_path) as served:
        seen = Seen(browser, served)
        tab = seen.go("/run/run/step/0/0", ".token")
        assert tab.locator(".response .token").all_text_contents() == list(SEEN.values())
        widths = tab.evaluate("[...document.querySelectorAll('.response .token')].map(t => t.offsetWidth)")
        assert min(widths) > 0
        for place in range(len(SEEN) + 1):  # the last one stays
            tab.keyboard.press("l")
            tab.wait_for_selector(f'.held[data-place="{min(place, len(SEEN) - 1)}"]')
        tab.keyboard.press("h")
        tab.wait_for_selector(f'.held[data-place="{len(SEEN) - 2}"]')
        assert f"token {len(SEEN) - 2} " in tab.inner_text(".token-facts")
        assert seen.wrong == []
        tab.close()


def test_a_conversation_and_its_rewards_can_be_told_apart(browser: Any, tmp_path: Path) -> None:
    rewards = {"right": {"mean": 0.5, "std": 0.25, "none": 0.0}, "<b>form": {"mean": 0.125, "std": 0.0, "none": 0.375}}
    made_run(
        tmp_path / "run", 6, rows={"rewards": rewards}, turns=[4, 8], forks=[8], calls=3, wrong_calls=1,
        parts='{"right": 1.0, "<b>form": null}',
    )  # fmt: skip
    with Served(tmp_path) as served:
        seen = Seen(browser, served)
        tab = seen.go("/run/run", "table.rewards")
        shown = [row.split() for row in tab.locator("table.rewards tbody tr").all_inner_texts()]
        assert shown == [["right", "0.5", "0.25", "0.0", "%"], ["<b>form", "0.125", "0", "37.5", "%"]]
        tab = seen.go("/run/run/step/0/0", ".token")
        words = tab.inner_text("main")
        assert "3 turns · 3 calls of tools, 1 of them wrong · forked 1 times" in words
        assert "(right 1, <b>form –)" in words
        bars = tab.evaluate(
            "[...document.querySelectorAll('.response .token')].map(t => getComputedStyle(t).borderLeftStyle)"
        )
        assert bars == ["solid" if place == 4 else "double" if place == 8 else "none" for place in range(12)]
        assert seen.wrong == []
        tab.close()


@pytest.mark.parametrize(
    ("place", "wait"),
    [("/", "table.runs tbody tr"), ("/run/grpo-0", ".chart canvas"), ("/run/grpo-0/step/3", ".problem"),
     ("/run/grpo-0/step/3/5", ".token"), ("/search/grpo-0?text=step 3", ".found tr"),
     ("/compare?run=grpo-0&run=sick", ".legend")],
)  # fmt: skip
def test_a_narrow_page_is_as_wide_as_its_window(browser: Any, runs: Path, place: str, wait: str) -> None:
    with Served(runs) as served:
        seen = Seen(browser, served, viewport={"width": 320, "height": 600})
        tab = seen.go(place, wait)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 320
        tab.close()


def test_what_is_printed_is_light_and_keeps_its_colours(browser: Any, runs: Path) -> None:
    with Served(runs) as served:
        seen = Seen(browser, served, color_scheme="dark")
        tab = seen.go("/run/grpo-0/step/3/5", ".token")
        tab.keyboard.press("t")
        tab.keyboard.press("t")  # dark, as somebody chose
        tab.emulate_media(media="print")
        back, colours = tab.evaluate(
            "[getComputedStyle(document.body).backgroundColor,"
            " getComputedStyle(document.querySelector('.token')).printColorAdjust]"
        )
        assert brightness(back) > 0.9
        assert colours == "exact"
        tab.close()


def test_a_curve_is_drawn_when_it_comes_near(browser: Any, runs: Path) -> None:
    with Served(runs) as served:
        tab = Seen(browser, served, viewport={"width": 400, "height": 500}).go("/run/sick", ".chart canvas")
        last = tab.locator(".chart").last
        assert last.locator("canvas").count() == 0
        last.scroll_into_view_if_needed()
        last.locator("canvas").wait_for()


def test_a_report_opens_from_the_disk_and_asks_nobody(browser: Any, runs: Path) -> None:
    from upslope.inspect.look.mailed import write_page

    page = write_page((runs / "sick").rename(runs / "s~ck *1 ü"))
    tab = browser.new_page()
    asked: list[str] = []
    wrong: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    tab.goto(page.as_uri())
    tab.wait_for_selector(".chart canvas", timeout=PATIENCE)
    assert "Most attempts are cut off" in tab.inner_text(".why")
    tab.goto(f"{page.as_uri()}#/run/{quote('s~ck *1 ü')}/step/11/5")
    tab.wait_for_selector(".response .token", timeout=PATIENCE)
    tab.goto(f"{page.as_uri()}#/run/{quote('s~ck *1 ü')}/step/5")
    tab.wait_for_selector("text=This is not in the report", timeout=PATIENCE)
    assert wrong == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    tab.close()
