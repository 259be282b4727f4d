// One attempt: every token coloured by what the update did to it, or by what the policy thought of it.
import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./vendor/htm-preact.js";
import { colour, MODES, scaleOf } from "./colours.js";
import { useAnswer, Waiting } from "./use.js";
import { good, number, parts, to, visible } from "./words.js";

export function Attempt({ run, kind, step, place, colouring, keys }) {
  const [told, error] = useAnswer("attempt", { run, kind, step, place });
  const [over, setOver] = useState(null);
  const [held, setHeld] = useState(null);
  useEffect(() => {
    setOver(null);
    setHeld(null);
  }, [run, kind, step, place]);
  const attempt = told?.attempt;
  const modes = useMemo(() => MODES.map((mode) => ({ ...mode, values: attempt ? mode.of(attempt) : null })).filter((mode) => mode.values?.some((value) => value !== null)), [attempt]);
  const mode = modes.find((one) => one.key === colouring) ?? modes[0];
  const go = (other) => other !== undefined && (location.hash = `${to("run", run, kind, step, other)}${mode ? `?by=${mode.key}` : ""}`);
  const siblings = told?.siblings ?? [];
  const at = siblings.findIndex((other) => other.place === place);
  const num = (attempt?.response ?? attempt?.response_pieces ?? []).length;
  const hold = (other) => num && setHeld(Math.max(0, Math.min(other, num - 1)));
  const by = (key) => (location.hash = `${to("run", run, kind, step, place)}?by=${key}`);
  useLayoutEffect(() =>
    keys({
      j: ["next attempt at this problem", () => go(siblings[at + 1]?.place)],
      k: ["attempt before", () => go(siblings[at - 1]?.place)],
      n: ["first attempt at the next problem", () => go(siblings.at(-1)?.place + 1 < told?.num_attempts ? siblings.at(-1).place + 1 : undefined)],
      p: ["problem before", () => go(siblings[0]?.place ? siblings[0].place - 1 : undefined)],
      l: ["next token", () => hold(held === null ? 0 : held + 1)],
      h: ["token before", () => hold(held === null ? 0 : held - 1)],
      ...Object.fromEntries(modes.slice(0, 9).map((one, i) => [String(i + 1), [`colour by ${one.name}`, () => by(one.key)]])),
      Escape: ["the step", () => (location.hash = to("run", run, kind, step))],
    }),
  );
  if (!told) return html`<${Waiting} error=${error} />`;
  const shown = held ?? over;
  return html`
    <div class="row">
      <h1>${attempt.problem}</h1>
      <span>attempt ${attempt.sample ?? place} · reward <b class=${good(attempt) ? "good" : "bad"}>${number(attempt.reward)}</b>${parts(attempt)}${" · "}
        ended by ${ENDED[attempt.ended] ?? attempt.ended}${conversation(attempt)}${attempt.extracted ? html` · answer <code>${attempt.extracted}</code>` : told.extracts ? " · no answer found" : ""}
        ${attempt.version !== undefined && ` · weights of version ${number(attempt.version)}`}${attempt.kept === false ? " · left out" : ""}</span>
    </div>
    <div class="columns">
      <div>
        <div class="row">${modes.map((one, i) => html`<button class=${one === mode ? "on" : ""} title=${one.words} onClick=${() => by(one.key)}><small>${i + 1}</small> ${one.name}</button>`)}</div>
        ${mode && html`<${Scale} mode=${mode} />`}
        <${Text} attempt=${attempt} mode=${mode} onOver=${setOver} onHold=${(i) => setHeld(held === i ? null : i)} held=${held} />
      </div>
      <aside>
        ${shown !== null ? html`<${Token} attempt=${attempt} place=${shown} modes=${modes} />` : html`<p class="quiet">Point at a token for its numbers; click to hold them. Keys h and l go from token to token.</p>`}
        <${Siblings} ...${{ run, kind, step, place, siblings, mode }} />
        <${Elsewhere} ...${{ run, kind, step, problem: attempt.problem }} />
      </aside>
    </div>`;
}

function Scale({ mode }) {
  const scale = scaleOf(mode.values);
  const show = (value) => number(mode.show ? mode.show(value) : value);
  const ends = mode.two ? [-scale, 0, scale] : [0, scale];
  return html`<p class="scale quiet">${ends.map((value) => html`<i style=${{ background: colour(value, scale, mode.two) }}>${show(value)}</i>`)} ${mode.words}</p>`;
}

/** What ended an attempt. */
const ENDED = { stop: "itself", stop_string: "a stop string", length: "the limit", turns: "the limit of turns", seconds: "the limit of seconds" };

/** How many turns a conversation had, and what happened in them. */
function conversation(attempt) {
  if (!attempt.turns?.length) return "";
  const [forks, calls] = [attempt.forks?.length ?? 0, attempt.calls ?? 0];
  const wrong = attempt.wrong_calls ? `, ${attempt.wrong_calls} of them wrong` : "";
  return ` · ${attempt.turns.length + 1} turns${calls ? ` · ${calls} calls of tools${wrong}` : ""}${forks ? ` · forked ${forks} times` : ""}`;
}

/** The prompt, then the response token by token; whatever the model wrote is text and nothing else. */
function Text({ attempt, mode, onOver, onHold, held }) {
  const place = useRef(null);
  const pieces = attempt.response_pieces ?? (attempt.response ? attempt.response.map((id) => `⟨${id}⟩`) : null);
  useEffect(() => {
    const target = place.current;
    target.replaceChildren();
    if (!pieces) {
      target.append(attempt.response_text ?? "");
      return;
    }
    const scale = mode ? scaleOf(mode.values) : 1;
    const parts = document.createDocumentFragment();
    pieces.forEach((piece, i) => {
      const token = document.createElement("span");
      token.className = attempt.mask && !attempt.mask[i] ? "token world" : "token";
      token.dataset.place = i;
      token.textContent = visible(piece);
      if (mode && (!attempt.mask || attempt.mask[i])) token.style.background = colour(mode.values[i], scale, mode.two);
      if (attempt.turns?.includes(i)) token.classList.add("turn");
      if (attempt.forks?.includes(i)) token.classList.add("fork");
      if (attempt.clipped?.[i]) token.classList.add("clipped");
      parts.append(token);
    });
    target.append(parts);
  }, [attempt, mode?.key]);
  useEffect(() => {
    place.current.querySelectorAll(".held").forEach((token) => token.classList.remove("held"));
    const target = held === null ? null : place.current.querySelector(`[data-place="${held}"]`);
    target?.classList.add("held");
    target?.scrollIntoView({ block: "nearest" });
  }, [held, attempt, mode?.key]);
  const of = (event) => event.target.dataset?.place;
  const prompt = attempt.prompt_pieces ? attempt.prompt_pieces.join("") : attempt.prompt_text;
  return html`
    <details class="prompt" open><summary>prompt${attempt.prompt ? `, ${number(attempt.prompt.length)} tokens` : ""}</summary><pre>${prompt}</pre></details>
    <pre class="response" ref=${place} onMouseOver=${(e) => of(e) !== undefined && onOver(+of(e))} onClick=${(e) => of(e) !== undefined && onHold(+of(e))}></pre>
    ${attempt.mask?.includes(false) && html`<p class="quiet"><span class="token world">grey</span>: the world's words (a tool, a calculator, a template), no choice of the policy's.</p>`}
    ${attempt.turns?.length > 0 && html`<p class="quiet"><span class="token turn">bar</span>: a turn begins${attempt.forks?.length ? html`; <span class="token turn fork">double</span>: the chat so far was rendered anew before it, since its template writes it otherwise now` : ""}.</p>`}`;
}

const chance = (logp) => (Number.isFinite(logp) ? Math.exp(logp) : null);

function Token({ attempt, place, modes }) {
  const at = (column) => attempt[column]?.[place];
  const rows = [
    ["log π, sampler", at("sampler_logp")],
    ["log π, learner, before", at("learner_logp")],
    ["probability", chance(at("learner_logp") ?? at("sampler_logp"))],
    ["probability after", chance(at("after_logp"))],
    ["log π, after an update", at("after_logp")],
    ["log π, reference", at("reference_logp")],
    ["entropy", at("entropy")],
    ["advantage", at("advantage")],
    ["ratio", at("ratio")],
    ["weight in the loss", at("weight")],
    ["push", at("push")],
  ].filter(([, value]) => value !== null && value !== undefined);
  const tops = at("top_logp");
  return html`<table class="token-facts">
    <caption>token ${place} · id ${at("response")} · <code>${JSON.stringify(at("response_pieces") ?? "")}</code></caption>
    ${at("mask") === false && html`<tr><td colspan="2">not the policy's choice</td></tr>`}
    ${at("clipped") && html`<tr><td colspan="2"><b>clipped</b></td></tr>`}
    ${rows.map(([name, value]) => html`<tr><td title=${modes.find((mode) => mode.name === name)?.words}>${name}</td><td>${number(value, 4)}</td></tr>`)}
    ${tops && html`<tr><th colspan="2">what else it could have said</th></tr>`}
    ${tops?.map((logp, i) => html`<tr class=${at("top_tokens")[i] === at("response") ? "on" : ""}><td><code>${JSON.stringify(at("top_pieces")?.[i] ?? at("top_tokens")[i])}</code></td><td>${number(Math.exp(logp))}</td></tr>`)}
  </table>`;
}

function Siblings({ run, kind, step, place, siblings, mode }) {
  return html`<h3>attempts at this problem</h3>
    <table>${siblings.map((other) => html`<tr class=${other.place === place ? "on" : ""}><td><a href=${`${to("run", run, kind, step, other.place)}${mode ? `?by=${mode.key}` : ""}`}>${other.sample ?? other.place}</a></td>
      <td class=${good(other) ? "good" : "bad"}>${number(other.reward)}</td><td>${other.extracted ?? ""}</td><td>${number(other.num_tokens)} tokens${other.ended === "length" ? ", cut" : ""}</td></tr>`)}</table>`;
}

/** The same problem at other steps: asked for only when somebody wants it, since many files are looked through. */
function Elsewhere({ run, kind, step, problem }) {
  return html`<p><a href=${`${to("search", run)}?${new URLSearchParams({ problem, kind })}`}>this problem at other steps</a></p>`;
}
