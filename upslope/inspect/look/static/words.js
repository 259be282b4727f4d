// Numbers, times and addresses as people read them.

export const number = (value, digits = 3) => {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return value.toLocaleString("en-US");
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(2) : String(+value.toPrecision(digits));
};

export const percent = (value) => (Number.isFinite(value) && value !== null ? `${(100 * value).toFixed(1)} %` : "–");

export const interval = (found) =>
  found && found.value !== null ? `${percent(found.value)} [${percent(found.low)}, ${percent(found.high)}]` : "–";

/** Whether an attempt is right; where nothing says that, whether it earned something. */
export const good = (attempt) => attempt.right ?? attempt.reward > 0;

/** What each reward function gave; empty where there was one. */
export const parts = (attempt) => {
  try {
    const told = Object.entries(JSON.parse(attempt.parts ?? "{}"));
    return told.length ? ` (${told.map(([name, value]) => `${name} ${number(value)}`).join(", ")})` : "";
  } catch {
    return ""; // a file that somebody else wrote
  }
};

/** How many problems an evaluation took, and of how many where it did not take all. */
export const of = (row) => {
  const num = row.num_problems ?? row.greedy?.num_problems;
  return row.num_held_out > num ? `${number(num)} of ${number(row.num_held_out)}` : number(num);
};

export const duration = (seconds) => {
  if (!Number.isFinite(seconds)) return "–";
  const whole = Math.round(seconds);
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (value) => String(value).padStart(2, "0");
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
};

export const ago = (seconds) => {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 10) return "now";
  const [size, unit] = seconds < 60 ? [1, "s"] : seconds < 3600 ? [60, "min"] : seconds < 86400 ? [3600, "h"] : [86400, "d"];
  return `${Math.floor(seconds / size)} ${unit} ago`;
};

/** An address inside the page: every view has one. */
export const to = (...parts) => `#/${parts.map((part) => encodeURIComponent(part)).join("/")}`;

/** The parts of the present address, and what stands behind its question mark. */
export const here = () => {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const decoded = path.split("/").filter(Boolean).map((part) => {
    try {
      return decodeURIComponent(part);
    } catch {
      return part; // a broken escape is shown as it stands
    }
  });
  return { parts: decoded, query: new URLSearchParams(query) };
};

// Characters that act, or reorder what is read: controls (but for tabs and new lines), and marks of direction.
const ACTING = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;
// Nothing but characters without a width, which could not be pointed at.
const UNSEEN = /^[\u00ad\u034f\u180e\u200b-\u200d\u2060-\u2065\u206a-\u206f\ufe00-\ufe0f\ufeff\ufff9-\ufffb\u{e0000}-\u{e0fff}]+$/u;
const code = (character) => `⟨${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`;
const picture = (character) => {
  const number = character.codePointAt(0);
  return number < 0x20 ? String.fromCodePoint(0x2400 + number) : number === 0x7f ? "␡" : code(character);
};

/** A token's text with everything to be seen: `␛`, `⏎`, `⟨200B⟩`; `∅` where there is none. */
export const visible = (piece) => {
  if (piece === "") return "∅";
  if (UNSEEN.test(piece)) return [...piece].map(code).join("");
  return piece.replace(ACTING, picture).replaceAll("\n", "⏎\n");
};
