// Curves of several runs over one another; runs that differ in nothing but their seed are one band.
import { html, useEffect, useLayoutEffect, useState } from "./vendor/htm-preact.js";
import { Chart, PALETTE } from "./charts.js";
import { ask } from "./net.js";
import { useAnswer, useNews, Waiting } from "./use.js";
import { to } from "./words.js";

const FIRST = ["reward", "accuracy", "length", "truncated", "entropy", "equal_groups", "kl_step", "grad_norm", "loss", "tokens_per_s"];

export function Compare({ runs, axis, keys }) {
  const news = useNews("");
  const [rows, error] = useAnswer("runs", {}, news);
  const [curves, setCurves] = useState({});
  const [fold, setFold] = useState(true);
  const [wrong, setWrong] = useState("");
  useEffect(() => {
    let wanted = true;
    Promise.all(runs.map((run) => ask("curves", { run, axis, keys: FIRST.join(",") }))).then(
      (found) => {
        if (!wanted) return;
        setWrong("");
        setCurves(Object.fromEntries(runs.map((run, i) => [run, found[i]])));
      },
      (problem) => wanted && setWrong(problem.message),
    );
    return () => {
      wanted = false;
    };
  }, [runs.join("\n"), axis, news]);
  const turn = (other) => (location.hash = `#/compare?${new URLSearchParams([...runs.map((run) => ["run", run]), ["axis", other]])}`);
  useLayoutEffect(() => keys({ b: ["seeds as a band, or each", () => setFold(!fold)], Escape: ["all runs", () => (location.hash = to())] }));
  if (!rows || error || wrong) return html`<${Waiting} error=${error || wrong} />`;
  const known = Object.fromEntries(rows.map((row) => [row.name, row]));
  const ready = runs.filter((run) => curves[run] && known[run]);
  const groups = Object.values(Object.groupBy(ready, (run) => (fold ? known[run].family : run)));
  const named = groups.map((members, i) => ({ members, colour: PALETTE[i % PALETTE.length], name: members.length > 1 ? `${members[0]} and ${members.length - 1} more seed${members.length > 2 ? "s" : ""}` : members[0] }));
  return html`
    <div class="row">
      ${["step", "tokens", "seconds"].map((other) => html`<button class=${other === axis ? "on" : ""} onClick=${() => turn(other)}>by ${other}</button>`)}
      <label><input type="checkbox" checked=${fold} onChange=${() => setFold(!fold)} /> seeds as a band</label>
    </div>
    <p>${named.map(({ colour, name, members }) => html`<span class="legend"><i style=${{ background: colour }}></i>
      ${members.length > 1 ? html`<span title=${members.join("\n")}>${name}</span>` : html`<a href=${to("run", members[0])}>${name}</a>`}</span>`)}</p>
    <div class="charts">
      <${Chart} title="held-out accuracy" axis=${axis} series=${named.map((group) => accuracy(group, curves))} />
      ${FIRST.filter((key) => ready.some((run) => curves[run].curves[key]?.y.some((y) => y !== null))).map(
        (key) => html`<${Chart} key=${key} title=${key} axis=${axis} series=${named.map((group) => folded(group, group.members.map((run) => curves[run].curves[key])))} />`,
      )}
    </div>`;
}

const accuracy = (group, curves) => {
  const found = group.members.map((run) => curves[run].accuracy);
  if (found.length === 1) {
    const rows = found[0];
    return { name: group.name, colour: group.colour, dots: true, x: rows.map((r) => r.x), y: rows.map((r) => r.value), low: rows.map((r) => r.low), high: rows.map((r) => r.high) };
  }
  return folded(group, found.map((rows) => ({ x: rows.map((r) => r.x), y: rows.map((r) => r.value) })));
};

/** Mean over the seeds at each seed's nearest point, with the least and the greatest of them. */
function folded(group, curves) {
  const { name, colour } = group;
  const there = curves.filter(Boolean);
  if (there.length <= 1) return { name, colour, ...(there[0] ?? { x: [], y: [] }) };
  const longest = there.reduce((a, b) => (b.x.length > a.x.length ? b : a));
  const rows = longest.x.map((x) => there.map((one) => nearest(one, x)).filter((y) => y !== null));
  return {
    name,
    colour,
    x: longest.x,
    y: rows.map((ys) => (ys.length ? ys.reduce((a, b) => a + b, 0) / ys.length : null)),
    low: rows.map((ys) => (ys.length ? Math.min(...ys) : null)),
    high: rows.map((ys) => (ys.length ? Math.max(...ys) : null)),
  };
}

/** A curve's value at the point nearest to x, none behind its end. */
function nearest(one, x) {
  let [from, to] = [0, one.x.length - 1];
  if (to < 0 || x > one.x[to] * 1.02 + 1e-9) return null;
  while (to - from > 1) {
    const middle = (from + to) >> 1;
    if (one.x[middle] <= x) from = middle;
    else to = middle;
  }
  return Math.abs(one.x[to] - x) < Math.abs(one.x[from] - x) ? one.y[to] : one.y[from];
}
