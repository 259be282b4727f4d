"""One file that shows a run without a server: the page with the answers to its questions inside."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

from upslope.errors import UserError
from upslope.files import write_whole
from upslope.inspect.look.api import PageAnswers
from upslope.inspect.look.library import Library
from upslope.record.journal import plain

STATIC = Path(__file__).parent / "static"
MOST_ATTEMPTS = 48
"""Attempts of one step, or of one evaluation, that are taken along with all their tokens."""
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
"""The file asks nobody for anything."""
_IMPORT = re.compile(r'^import \{([^}]*)\} from "\./([^"]+)";$', re.MULTILINE)
_EXPORT = re.compile(r"^export (?:async )?(?:const|function) (\w+)", re.MULTILINE)
_VENDOR_EXPORT = re.compile(r"export\{([^}]*)\};?\s*$")


def write_page(folder: Path) -> Path:
    """Write ``folder/report.html`` and return its path."""
    path = folder / "report.html"
    write_whole(path, page_of(folder).encode("utf-8", "replace"))
    return path


def page_of(folder: Path) -> str:
    """The page with everything about one run that fits into a mail: all curves; steps and attempts of the first and
    the last recorded step and evaluation."""
    told = json.dumps(plain(answers_of(folder))).replace("<", "\\u003c")  # no text can end the element it stands in
    style = "".join((STATIC / name).read_text(encoding="utf-8") for name in ("vendor/uplot.css", "style.css"))
    uplot = (STATIC / "vendor" / "uplot.js").read_text(encoding="utf-8")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="content-security-policy" content="{POLICY}">'
        f"<title>{html.escape(folder.resolve().name)}</title><style>{style}</style></head>\n"
        f'<body><div id="app"></div>\n<script type="application/json" id="answers">{told}</script>\n'
        f"<script>{uplot}</script>\n<script>{bundled()}</script></body></html>\n"
    )


def answers_of(folder: Path) -> dict[str, Any]:
    """What the page would be told, by its questions."""
    library = Library([folder])
    runs = [run for run in library.runs() if run.place.folder == folder]
    if not runs:
        raise UserError(f"{folder}: there is no run in it")
    name, place, asked = runs[0].place.name, runs[0].place, PageAnswers(library)
    found: dict[str, Any] = {}

    def ask(question: str, **query: Any) -> Any:
        given = {key: str(value) for key, value in query.items()}
        answer = found[json.dumps([question, *given.items()], ensure_ascii=False)] = getattr(asked, question)(given)
        return answer

    found['["runs"]'] = [row for row in asked.runs({}) if row["name"] == name]
    ask("run", run=name)
    for axis in ("step", "tokens", "seconds"):
        ask("curves", run=name, axis=axis)
    for kind in ("step", "eval"):
        steps = place.attempt_steps(kind)
        for step in dict.fromkeys(steps[:1] + steps[-1:]):
            try:
                problems = ask("step", run=name, kind=kind, step=step)["problems"]
                places = [attempt["place"] for problem in problems for attempt in problem["attempts"]]
                for number in places[:MOST_ATTEMPTS]:
                    ask("attempt", run=name, kind=kind, step=step, place=number)
            except UserError:
                continue  # a damaged file: the page says that this is not in the report
    return found


def bundled() -> str:
    """The page's modules as one script, each a function of its own, in the order in which they need one another."""
    done: dict[str, str] = {}

    def add(name: str) -> None:
        if name in done:
            return
        source = (STATIC / name).read_text(encoding="utf-8")
        done[name] = ""  # its place is kept behind those that it needs
        for _, needed in _IMPORT.findall(source):
            add(needed)
        del done[name]
        done[name] = _as_function(name, source)

    add("app.js")
    return "const modules = {};\n" + "\n".join(done.values())


def _as_function(name: str, source: str) -> str:
    given = _VENDOR_EXPORT.search(source)
    if given:  # export{a as h,fe as html}
        pairs = [pair.split(" as ") for pair in given[1].split(",")]
        exports = ", ".join(f"{pair[-1].strip()}: {pair[0].strip()}" for pair in pairs)
        body = source[: given.start()]
    else:
        exports = ", ".join(_EXPORT.findall(source))
        body = _IMPORT.sub(r'const {\1} = modules["\2"];', source)
        body = re.sub(r"^export ", "", body, flags=re.MULTILINE)
    return f'modules["{name}"] = (() => {{\n{body}\nreturn {{ {exports} }};\n}})();'
