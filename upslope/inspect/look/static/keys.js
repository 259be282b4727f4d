// Keys: each view says which it knows; "?" shows them.

let known = {};

/** `keys`: {key: [what it does, function]}. */
export const setKeys = (keys) => {
  known = keys;
};
export const knownKeys = () => Object.entries(known).map(([key, [words]]) => [key, words]);

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const { tagName, type } = event.target;
  if (/^(SELECT|TEXTAREA)$/.test(tagName) || (tagName === "INPUT" && type !== "checkbox")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (event.key === "Enter" && /^(A|BUTTON|SUMMARY)$/.test(tagName)) return; // the browser's own
  const found = known[event.key];
  if (found) {
    event.preventDefault();
    found[1]();
  }
});
