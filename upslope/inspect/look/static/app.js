// The page: which view the address asks for, and what stands around every view.
import { html, render, useEffect, useState } from "./vendor/htm-preact.js";
import { Attempt } from "./attempt.js";
import { knownKeys, setKeys } from "./keys.js";
import { Compare } from "./compare.js";
import { Run } from "./run.js";
import { Runs } from "./runs.js";
import { Search } from "./search.js";
import { Step } from "./step.js";
import { reported } from "./net.js";
import { here, to } from "./words.js";

const THEMES = ["auto", "light", "dark"];

function App() {
  const [place, setPlace] = useState(here());
  const [theme, setTheme] = useState(localStorage.getItem("theme") ?? "auto");
  const [help, setHelp] = useState(false);
  useEffect(() => {
    const moved = () => {
      setHelp(false);
      setPlace(here());
    };
    addEventListener("hashchange", moved);
    return () => removeEventListener("hashchange", moved);
  }, []);
  useEffect(() => {
    document.documentElement.dataset.theme = theme;
    localStorage.setItem("theme", theme);
  }, [theme]);
  const turn = () => setTheme(THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length]);
  const keys = (own) => setKeys({ ...own, "?": ["these keys", () => setHelp((shown) => !shown)], t: ["dark, light, as the system", turn] });
  const { parts, query } = place;
  const [what = "runs", run, kind, step, attempt] = parts;
  return html`
    <header>
      <a class="name" href=${to()}>upslope</a>
      ${run && what !== "compare" && html`<a href=${to("run", run)}>${run}</a>`}
      ${step !== undefined && html`<a href=${to("run", run, kind, step)}>${kind === "eval" ? "evaluation" : "step"} ${step}</a>`}
      ${attempt !== undefined && html`<span>attempt ${attempt}</span>`}
      <span class="space"></span>
      ${run && what !== "compare" && html`<a href=${to("search", run)}>search</a>`}
      <button title="keys" onClick=${() => setHelp(!help)}>?</button>
      <button title="dark, light, as the system" onClick=${turn}>${theme}</button>
    </header>
    ${help && html`<aside class="help"><table>${knownKeys().map(([key, words]) => html`<tr><td><kbd>${key === " " ? "space" : key}</kbd></td><td>${words}</td></tr>`)}</table></aside>`}
    <main>${viewOf({ what, run, kind, step, attempt, query, keys })}</main>
  `;
}

function viewOf({ what, run, kind, step, attempt, query, keys }) {
  if (what === "compare") return html`<${Compare} runs=${query.getAll("run")} axis=${query.get("axis") ?? "step"} keys=${keys} />`;
  if (what === "search") return html`<${Search} key=${`${run}?${query}`} run=${run} query=${query} keys=${keys} />`;
  if (what === "run" && attempt !== undefined)
    return html`<${Attempt} run=${run} kind=${kind} step=${+step} place=${+attempt} colouring=${query.get("by")} keys=${keys} />`;
  if (what === "run" && step !== undefined) return html`<${Step} key=${`${run}/${kind}/${step}`} run=${run} kind=${kind} step=${+step} keys=${keys} />`;
  if (what === "run") return html`<${Run} key=${run} run=${run} axis=${query.get("axis") ?? "step"} keys=${keys} />`;
  return html`<${Runs} keys=${keys} />`;
}

if (reported && here().parts[0] !== "run") location.replace(to("run", reported));
const place = document.getElementById("app");
place.replaceChildren();
render(html`<${App} />`, place);
