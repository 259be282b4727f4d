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

const PACE = 2000; // milliseconds between two answers to the same question of a run that trains: nobody reads faster

/** A number that grows when the run (empty: any run) has; not while nobody looks, and not faster than `PACE`. */
export function useNews(run) {
  const [count, setCount] = useState(0);
  useEffect(() => {
    let [timer, last, missed] = [0, 0, false];
    const tell = () => {
      [timer, last] = [0, Date.now()];
      setCount((now) => now + 1);
    };
    const later = () => {
      missed = document.hidden;
      if (!missed && !timer) timer = setTimeout(tell, Math.max(last + PACE - Date.now(), 0));
    };
    const seen = () => missed && later();
    document.addEventListener("visibilitychange", seen);
    const stop = listen(run, later);
    return () => {
      stop();
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", seen);
    };
  }, [run]);
  return count;
}

/** Whether an element has come near the screen yet, or is to be printed: what nobody sees need not be drawn. */
export function useNear(place) {
  const [near, setNear] = useState(false);
  useEffect(() => {
    if (near) return undefined;
    const come = () => setNear(true);
    const observer = new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && come(), { rootMargin: "500px" });
    observer.observe(place.current);
    addEventListener("beforeprint", come);
    return () => {
      observer.disconnect();
      removeEventListener("beforeprint", come);
    };
  }, [near]);
  return near;
}

export const Waiting = ({ error }) =>
  error ? html`<p class="wrong" role="alert">${error}</p>` : html`<p class="quiet">Reading …</p>`;
