// One run: what is wrong with it, and every column of its journal as a curve.
import { html, useLayoutEffect, useState } from "./vendor/htm-preact.js";
import { Chart, PALETTE } from "./charts.js";
import { lineage } from "./runs.js";
import { useAnswer, useNews, Waiting } from "./use.js";
import { duration, interval, number, of, percent, to } from "./words.js";

export function Run({ run, axis, keys }) {
  const news = useNews(run);
  const [told, error] = useAnswer("run", { run }, news);
  const [found, wrong] = useAnswer("curves", { run, axis }, news);
  const [open, setOpen] = useState(false);
  const last = told?.recorded.num ? told.recorded.last : null;
  useLayoutEffect(() =>
    keys({
      l: ["newest step", () => last !== null && (location.hash = to("run", run, "step", last))],
      e: ["newest evaluation", () => told?.evaluated.length && (location.hash = to("run", run, "eval", told.evaluated.at(-1)))],
      "/": ["search", () => (location.hash = to("search", run))],
      Escape: ["all runs", () => (location.hash = to())],
    }),
  );
  if (!told || !found) return html`<${Waiting} error=${error || wrong} />`;
  const groups = Object.entries(told.groups).map(([group, words]) => [group, words, told.columns.filter((column) => column.group === group)]);
  const tried = told.evals.filter((row) => row.greedy);
  const judged = told.evals.filter((row) => Number.isFinite(row.reward));
  return html`
    <h1>${run}</h1>
    <p class="facts">
      <b title=${lineage(told.lineage)}>${told.recipe}</b> on ${told.task || "–"} from ${told.model || "–"}, seed ${told.seed ?? "–"}${" · "}
      ${number(told.steps)}${told.total ? ` of ${number(told.total)}` : ""} steps · ${number(told.tokens)} tokens · ${duration(told.seconds)}${" · "}
      ${tried.length || !judged.length
        ? html`held-out accuracy ${tried.length > 1 && html`${interval(tried[0].greedy)} → `}${interval(tried.at(-1)?.greedy)}`
        : html`held-out mean reward ${judged.length > 1 && html`${number(judged[0].reward)} → `}${number(judged.at(-1).reward)}`}
      ${judged.length > 0 && html` on ${of(judged.at(-1))} problems`}
    </p>
    ${told.trouble && html`<p class="wrong" role="alert">${told.trouble}</p>`}
    ${told.ended && html`<p class="wrong">It ended early: ${told.ended}</p>`}
    <${Why} findings=${told.why} steps=${told.steps} />
    <p>
      ${last !== null && html`attempts of steps ${number(told.recorded.first)} to ${number(last)}: <${Go} run=${run} first=${told.recorded.first} last=${last} />${" · "}`}
      ${told.evaluated.length > 0 && html`evaluations: ${told.evaluated.slice(-12).map((step) => html`<a href=${to("run", run, "eval", step)}>after ${step}</a> `)}${" · "}`}
      <a href=${to("search", run)}>search the attempts</a>${" · "}
      <button onClick=${() => setOpen(!open)}>settings</button>
    </p>
    ${open && html`<pre class="settings">${JSON.stringify(told.settings, null, 1)}</pre>`}
    <div class="row">${["step", "tokens", "seconds"].map((other) => html`<a class=${other === axis ? "on button" : "button"} href=${`${to("run", run)}?axis=${other}`}>by ${other}</a>`)}</div>
    ${found.accuracy.length > 0 && html`<div class="charts"><${Chart} title="held-out accuracy" axis=${axis} words="greedy accuracy on held-out problems, with its 95 % interval"
      series=${[{ name: "", colour: PALETTE[1], dots: true, x: found.accuracy.map((r) => r.x), y: found.accuracy.map((r) => r.value), low: found.accuracy.map((r) => r.low), high: found.accuracy.map((r) => r.high) }]} /></div>`}
    <${Rewards} rewards=${told.rewards} />
    ${groups.filter(([, , columns]) => columns.length).map(
      ([group, words, columns]) => html`<section key=${group}>
        <h2>${group} <small class="quiet">${words}</small></h2>
        <div class="charts">
          ${columns.filter((column) => found.curves[column.key]).map((column) => html`<${Chart} key=${column.key} title=${column.key} words=${column.words} axis=${axis} series=${[{ name: "", colour: PALETTE[0], ...found.curves[column.key] }]} />`)}
        </div>
      </section>`,
    )}`;
}

/** Every reward function of the newest step: its mean, its spread, and how often it did not apply. */
function Rewards({ rewards }) {
  const names = Object.keys(rewards);
  if (!names.length) return null;
  return html`<table class="rewards"><thead><tr><th>reward function</th><th>mean</th><th>spread</th><th>not applicable</th></tr></thead>
    <tbody>${names.map((name) => html`<tr key=${name}><td>${name}</td><td>${number(rewards[name].mean)}</td><td>${number(rewards[name].std)}</td><td>${percent(rewards[name].none)}</td></tr>`)}</tbody></table>`;
}

function Why({ findings, steps }) {
  if (!findings.length) return html`<p class="well">${steps < 5 ? "Too few steps to say how it goes." : "Nothing looks wrong."}</p>`;
  return html`<ol class="why">${findings.map((found) => html`<li><b>${found.says}</b> <span class="quiet">${found.numbers}.</span><br />What helps: ${found.mend}.</li>`)}</ol>`;
}

function Go({ run, first, last }) {
  const go = (event) => {
    event.preventDefault();
    location.hash = to("run", run, "step", event.target.elements.step.value);
  };
  return html`<form class="go" onSubmit=${go}><input name="step" type="number" min=${first} max=${last} value=${last} aria-label="step" /><button>look</button></form>`;
}
