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

/** Call `told({run: steps})` whenever a run has grown; returns what ends that. `run` empty: all runs. */
export function listen(run, told) {
  if (taken) return () => {};
  const source = new EventSource(`api/events?${new URLSearchParams(run ? { run } : {})}`);
  source.onmessage = (event) => {
    const news = JSON.parse(event.data);
    if (Object.keys(news.runs).length || news.gone?.length) told(news.runs);
  };
  return () => source.close();
}
