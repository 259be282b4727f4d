// What a token can be coloured by: one number a token, and how far from nothing it is.

const pair = (a, b, f) => (a && b ? a.map((value, i) => (value === null || b[i] === null ? null : f(value, b[i]))) : null);

/** name, words, and the numbers of an attempt (null: it has none). `two`: below and above 0 differ in colour. */
export const MODES = [
  {
    key: "push",
    name: "push",
    words: "−∂loss/∂log π: how hard the update pushed this token, up (blue) or down (red)",
    two: true,
    of: (a) => a.push,
  },
  { key: "advantage", name: "advantage", words: "the advantage that the recipe gave this token", two: true, of: (a) => a.advantage },
  {
    key: "logp",
    name: "log-probability",
    words: "log π of the token before the update, nats: the darker, the less likely",
    of: (a) => (a.learner_logp ?? a.sampler_logp)?.map((value) => (value === null ? null : -value)),
    show: (value) => (value ? -value : 0),
  },
  { key: "entropy", name: "entropy", words: "entropy of the distribution that it was drawn from, nats", of: (a) => a.entropy },
  {
    key: "ratio",
    name: "ratio",
    words: "log of π / π_old as the last update saw it: how far the updates before had moved the token",
    two: true,
    of: (a) => a.ratio?.map((value) => (value === null || value <= 0 ? null : Math.log(value))),
    show: (value) => Math.exp(value),
  },
  {
    key: "moved",
    name: "moved",
    words: "log π after the step’s updates (or before its last pass) less log π before them, nats: how far they moved the token",
    two: true,
    of: (a) => pair(a.after_logp, a.learner_logp, (after, before) => after - before),
  },
  {
    key: "gap",
    name: "sampler gap",
    words: "learner's log-probability less the sampler's, nats: not 0 where the two disagree",
    two: true,
    of: (a) => pair(a.learner_logp, a.sampler_logp, (l, s) => l - s),
  },
  {
    key: "reference",
    name: "reference",
    words: "log π / π_reference, nats: how far the token is from the reference",
    two: true,
    of: (a) => pair(a.learner_logp, a.reference_logp, (l, r) => l - r),
  },
  {
    key: "clipped",
    name: "clipped",
    words: "whether the surrogate cut the token's gradient",
    of: (a) => a.clipped?.map((value) => (value ? 1 : 0)),
  },
];

/** What the colour is full at: the 95th percentile of the sizes that are not nothing. */
export const scaleOf = (values) => {
  const sizes = values.filter((value) => value !== null && value !== 0).map(Math.abs).sort((a, b) => a - b);
  return sizes[Math.floor(0.95 * (sizes.length - 1))] || 1;
};

/** A background; it lets the page's own colour through, so it works in the dark and in the light. */
export const colour = (value, scale, two) => {
  if (value === null || value === undefined) return "transparent";
  const share = Math.min(Math.abs(value) / scale, 1) * 0.75;
  const hue = two ? (value < 0 ? "213, 60, 30" : "30, 110, 220") : "230, 140, 0";
  return `rgba(${hue}, ${share.toFixed(3)})`;
};
