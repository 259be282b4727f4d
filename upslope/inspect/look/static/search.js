// Attempts by what they say and earned.
import { html, useEffect, useLayoutEffect, useState } from "./vendor/htm-preact.js";
import { ask } from "./net.js";
import { number, to } from "./words.js";

const FIELDS = [
  ["text", "text in the attempt or its prompt", "search"],
  ["problem", "problem", "text"],
  ["least_reward", "reward from", "number"],
  ["most_reward", "to", "number"],
  ["least_length", "tokens from", "number"],
  ["most_length", "to", "number"],
  ["before", "steps below", "number"],
];

export function Search({ run, query, keys }) {
  const asked = query.toString();
  const kind = query.get("kind") ?? "step";
  const [state, setState] = useState({ found: [], next: null, left: 0, busy: true, wrong: "" });
  const [more, setMore] = useState(0);
  useEffect(() => {
    let wanted = true;
    // The server answers after a fraction of a second with what it has; go on until there is a page full.
    const goOn = async (before, found) => {
      const answer = await ask("search", { run, kind, ...Object.fromEntries(query), ...(before === null ? {} : { before }) });
      if (!wanted) return;
      const all = [...found, ...answer.found];
      const busy = answer.next !== null && all.length < 50 * (more + 1);
      setState({ found: all, next: answer.next, left: answer.left, busy, wrong: answer.troubles.join(" · ") });
      if (busy) await goOn(answer.next, all);
    };
    const begun = more && state.found.length ? goOn(state.next, state.found) : goOn(null, []);
    begun.catch((error) => wanted && setState({ found: [], next: null, left: 0, busy: false, wrong: error.message }));
    return () => {
      wanted = false;
    };
  }, [run, asked, more]);
  useLayoutEffect(() => keys({ "/": ["text", () => document.querySelector("form.search input")?.focus()], Escape: ["the run", () => (location.hash = to("run", run))] }));
  const go = (event) => {
    event.preventDefault();
    const given = [...new FormData(event.target)].filter(([, value]) => value !== "" && value !== "any");
    setMore(0);
    location.hash = `${to("search", run)}?${new URLSearchParams(given)}`;
  };
  return html`
    <form class="row search" onSubmit=${go}>
      ${FIELDS.map(([name, words, type]) => html`<input name=${name} type=${type} step="any" placeholder=${words} aria-label=${words} value=${query.get(name) ?? ""} />`)}
      <select name="ended" aria-label="how it ended">${["any", "stop", "stop_string", "length", "turns", "seconds"].map((value) => html`<option selected=${value === (query.get("ended") ?? "any")}>${value}</option>`)}</select>
      <select name="kind" aria-label="of what">${["step", "eval"].map((value) => html`<option selected=${value === kind}>${value}</option>`)}</select>
      <button>search</button>
    </form>
    ${state.wrong && html`<p class="wrong" role="alert">${state.wrong}</p>`}
    <p class="quiet">${state.found.length} found, newest step first${state.busy ? " …" : ""}${state.left ? `; ${number(state.left)} steps not looked through` : ""}
      ${state.next !== null && !state.busy && html` <button onClick=${() => setMore(more + 1)}>more</button>`}</p>
    <table class="found"><tbody>${state.found.map(
      (row) => html`<tr><td><a href=${to("run", run, kind, row.step, row.place)}>step ${row.step}</a></td><td>${row.problem}</td><td>${number(row.reward)}</td><td>${row.ended}</td><td class="excerpt">${row.excerpt}</td></tr>`,
    )}</tbody></table>`;
}
