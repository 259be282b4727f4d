// An answer that is asked for anew when its question changes, or the run has grown.
import { html, useEffect, useState } from "./vendor/htm-preact.js";
import { ask, listen } from "./net.js";

/** [answer or null, error or ""]; a late answer to an old question is dropped. */
export function useAnswer(name, query, again = 0) {
  const [found, setFound] = useState([null, ""]);
  const asked = JSON.stringify([name, query]);
  useEffect(() => {
    let wanted = true;
    ask(name, query).then(
      (answer) => wanted && setFound([answer, ""]),
      (error) => wanted && setFound([null, error.message]),
    );
    return () => {
      wanted = false;
    };
  }, [asked, again]);
  return found;
}

/** A number that grows when the run (empty: any run) does. */
export function useNews(run) {
  const [count, setCount] = useState(0);
  useEffect(() => listen(run, () => setCount((now) => now + 1)), [run]);
  return count;
}

export const Waiting = ({ error }) =>
  error ? html`<p class="wrong" role="alert">${error}</p>` : html`<p class="quiet">Reading …</p>`;
