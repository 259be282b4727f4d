// Questions to the server, and its news; in a report, which has no server, the answers that were taken along.

const along = document.getElementById("answers");
const taken = along && JSON.parse(along.textContent);

/** Lists of strings as Python's json writes them. */
const pythons = (value) => (Array.isArray(value) ? `[${value.map(pythons).join(", ")}]` : JSON.stringify(value));

/** The answer to a question, or an Error with the server's one line. */
export async function ask(name, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  if (taken) {
    const asked = pythons([name, ...given.map(([key, value]) => [key, String(value)])]);
    if (asked in taken) return taken[asked];
    throw new Error("This is not in the report. upslope look shows it, where the run's folder is.");
  }
  const answer = await fetch(`api/${name}?${new URLSearchParams(given)}`);
  const found = await answer.json().catch(() => ({ error: `the server answered ${answer.status}` }));
  if (!answer.ok) throw new Error(found.error ?? `the server answered ${answer.status}`);
  return found;
}

/** The run of a report; empty where there is a server. */
export const reported = taken?.['["runs"]'][0].name ?? "";

const listeners = new Set();
let listens = false;

function openNews() {
  listens = true;
  const tell = ({ data }) => {
    const news = JSON.parse(data);
    listeners.forEach((one) => one(news));
  };
  if (globalThis.SharedWorker) new SharedWorker("static/workers/news.js").port.onmessage = tell;
  else new EventSource("api/events").onmessage = tell;
}

/** Call `told()` whenever a run has grown, or is gone; returns what ends that. `run` empty: any run. */
export function listen(run, told) {
  if (taken) return () => {};
  if (!listens) openNews();
  const one = ({ runs, gone = [] }) => {
    if (run ? run in runs || gone.includes(run) : Object.keys(runs).length || gone.length) told();
  };
  listeners.add(one);
  return () => listeners.delete(one);
}
