// One step: its problems with what every attempt earned.
import { html, useEffect, useLayoutEffect, useState } from "./vendor/htm-preact.js";
import { useAnswer, Waiting } from "./use.js";
import { good, number, to } from "./words.js";

export function Step({ run, kind, step, keys }) {
  const [told, error] = useAnswer("step", { run, kind, step });
  const [at, setAt] = useState(0);
  const go = (other) => other !== null && other !== undefined && (location.hash = to("run", run, kind, other));
  const problems = told?.problems ?? [];
  const look = () => problems[at] && (location.hash = to("run", run, kind, step, problems[at].attempts[0].place));
  useLayoutEffect(() =>
    keys({
      j: ["next problem", () => setAt(Math.min(at + 1, problems.length - 1))],
      k: ["problem before", () => setAt(Math.max(at - 1, 0))],
      Enter: ["its first attempt", look],
      l: ["next step", () => go(told?.after)],
      h: ["step before", () => go(told?.before)],
      "/": ["search", () => (location.hash = to("search", run))],
      Escape: ["the run", () => (location.hash = to("run", run))],
    }),
  );
  useEffect(() => document.querySelector(".problem.here")?.scrollIntoView({ block: "nearest" }), [at]);
  if (!told) return html`<${Waiting} error=${error} />`;
  const count = (of) => problems.filter((problem) => problem.kind === of).length;
  const shown = ["reward", "accuracy", "equal_groups", "length", "truncated", "entropy", "loss", "grad_norm", "kl_step", "logp_gap_mean", "clip_low", "clip_high", "num_learned"];
  return html`
    <div class="row">
      <button disabled=${told.before === null} onClick=${() => go(told.before)}>← ${told.before ?? ""}</button>
      <h1>${kind === "eval" ? "evaluation after step" : "step"} ${number(step)}</h1>
      <button disabled=${told.after === null} onClick=${() => go(told.after)}>${told.after ?? ""} →</button>
    </div>
    <p class="facts">${shown.filter((key) => key in told.row).map((key) => html`<span>${key} <b>${number(told.row[key])}</b></span> `)}</p>
    ${kind === "step" && count("single") < problems.length && html`<p>${count("mixed")} of ${problems.length} problems teach something (their attempts earned different rewards);${" "}
      ${count("equal")} earned all the same${count("single") ? `; ${count("single")} were tried once` : ""}${count("left out") ? `; ${count("left out")} were tried and left out` : ""}.</p>`}
    ${problems.map(
      (problem, i) => html`<section key=${problem.problem} class=${`problem ${i === at ? "here" : ""} ${kind === "step" ? problem.kind.replace(" ", "-") : ""}`}>
        <h3><bdi>${problem.problem}</bdi> <small class="quiet">${kind === "step" ? `${problem.kind}, ` : ""}mean reward ${number(problem.mean)}</small></h3>
        <p class="prompt">${problem.prompt}</p>
        <p class="attempts">${problem.attempts.map(
          (attempt) => html`<a class=${`attempt ${good(attempt) ? "good" : "bad"} ${attempt.ended === "length" ? "cut" : ""}`} href=${to("run", run, kind, step, attempt.place)}
            title=${`attempt ${attempt.sample ?? attempt.place}: reward ${number(attempt.reward)}, ${number(attempt.num_tokens)} tokens, ended by ${attempt.ended}${attempt.extracted ? `, answer ${attempt.extracted}` : ""}`}>${number(attempt.reward)}</a>`,
        )}</p>
      </section>`,
    )}`;
}
