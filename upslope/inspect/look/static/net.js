// Questions to the server, and its news.

/** The answer to a question, or an Error with the server's one line. */
export async function ask(name, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const answer = await fetch(`api/${name}?${new URLSearchParams(given)}`);
  const found = await answer.json().catch(() => ({ error: `the server answered ${answer.status}` }));
  if (!answer.ok) throw new Error(found.error ?? `the server answered ${answer.status}`);
  return found;
}

/** Call `told({run: steps})` whenever a run has grown; returns what ends that. `run` empty: all runs. */
export function listen(run, told) {
  const source = new EventSource(`api/events?${new URLSearchParams(run ? { run } : {})}`);
  source.onmessage = (event) => {
    const news = JSON.parse(event.data);
    if (Object.keys(news.runs).length || news.gone?.length) told(news.runs);
  };
  return () => source.close();
}
