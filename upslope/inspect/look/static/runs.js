// The table of runs.
import { html, useEffect, useLayoutEffect, useState } from "./vendor/htm-preact.js";
import { useAnswer, useNews, Waiting } from "./use.js";
import { ago, duration, interval, number, to } from "./words.js";

export function Runs({ keys }) {
  const [rows, error] = useAnswer("runs", {}, useNews(""));
  const [ticked, setTicked] = useState([]);
  const [filter, setFilter] = useState("");
  const [at, setAt] = useState(0);
  const shown = (rows ?? []).filter((row) => `${row.name} ${row.recipe} ${row.task} ${row.model}`.toLowerCase().includes(filter.toLowerCase()));
  const compare = () => ticked.length && (location.hash = `#/compare?${new URLSearchParams(ticked.map((name) => ["run", name]))}`);
  const tick = (name) => setTicked(ticked.includes(name) ? ticked.filter((other) => other !== name) : [...ticked, name]);
  useLayoutEffect(() =>
    keys({
      j: ["next run", () => setAt(Math.min(at + 1, shown.length - 1))],
      k: ["run before", () => setAt(Math.max(at - 1, 0))],
      Enter: ["look at the run", () => shown[at] && (location.hash = to("run", shown[at].name))],
      x: ["tick the run", () => shown[at] && tick(shown[at].name)],
      c: ["curves of the ticked runs", compare],
      "/": ["filter", () => document.getElementById("filter")?.focus()],
    }),
  );
  useEffect(() => document.querySelector("tr.here")?.scrollIntoView({ block: "nearest" }), [at]);
  if (!rows) return html`<${Waiting} error=${error} />`;
  if (!rows.length) return html`<p>No run here yet. A run appears as soon as it has written its first line.</p>`;
  return html`
    <div class="row">
      <input id="filter" type="search" placeholder="filter by name, recipe, task, model" value=${filter} onInput=${(e) => (setAt(0), setFilter(e.target.value))} />
      <button disabled=${!ticked.length} onClick=${compare}>curves of ${ticked.length || "the ticked"} run${ticked.length === 1 ? "" : "s"}</button>
    </div>
    <table class="runs">
      <thead><tr><th></th><th>run</th><th>recipe</th><th>task</th><th>model</th><th>seed</th><th>steps</th>
        <th>held-out accuracy</th><th>tokens</th><th>time</th><th>last line</th></tr></thead>
      <tbody>
        ${shown.map(
          (row, i) => html`<tr key=${row.name} class=${i === at ? "here" : ""}>
            <td><input type="checkbox" aria-label=${`tick ${row.name}`} checked=${ticked.includes(row.name)} onChange=${() => tick(row.name)} /></td>
            <td><a href=${to("run", row.name)}>${row.name}</a>${row.trouble && html` <span class="wrong" title=${row.trouble}>⚠</span>`}</td>
            <td title=${lineage(row.lineage)}>${row.recipe}<small>${changes(row.lineage)}</small></td>
            <td>${row.task}</td><td>${row.model}</td><td>${row.seed ?? "–"}</td>
            <td>${number(row.steps)}${row.total ? ` / ${number(row.total)}` : ""}${row.ended && html` <span title=${row.ended}>ended</span>`}</td>
            <td>${row.accuracy.length > 1 ? html`<span class="quiet">${interval(row.accuracy[0])} →</span> ` : ""}${interval(row.accuracy.at(-1))}</td>
            <td>${number(row.tokens)}</td><td>${duration(row.seconds)}</td><td>${ago(row.age)}</td>
          </tr>`,
        )}
      </tbody>
    </table>`;
}

const changed = (told) => Object.entries(told?.changes ?? {});
const changes = (told) => (changed(told).length ? ` = ${told.parent} + ${changed(told).map(([slot]) => slot).join(", ")}` : "");
export const lineage = (told) =>
  changed(told).length ? `a patch of ${told.parent}:\n${changed(told).map(([slot, [was, is]]) => `${slot}: ${was} → ${is}`).join("\n")}` : "";
