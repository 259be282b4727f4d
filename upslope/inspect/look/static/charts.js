// Curves: a mean with the span of what it stands for, several runs over one another.
import { html, useEffect, useRef } from "./vendor/htm-preact.js";
import { useNear } from "./use.js";
import { number } from "./words.js";

export const PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#666666"];

/** `series`: [{name, colour, x, y, low, high, dots}]; equal x or not. */
export function Chart({ title, words, series, height = 150, axis = "step" }) {
  const place = useRef(null);
  const near = useNear(place);
  const told = JSON.stringify([series, axis]);
  useEffect(() => {
    if (!near) return undefined;
    const { data, lines, bands } = laidOut(series);
    if (!data[0].length) return undefined;
    const styles = getComputedStyle(document.documentElement);
    const [ink, grid] = [styles.getPropertyValue("--quiet"), styles.getPropertyValue("--line")];
    const side = { stroke: ink, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1 }, font: "11px system-ui" };
    const options = {
      width: place.current.clientWidth || 300,
      height,
      cursor: { sync: { key: axis }, points: { size: 5 } },
      legend: { show: false },
      scales: { x: { time: false } },
      axes: [
        { ...side, values: (_, ticks) => ticks.map((tick) => number(tick)) },
        { ...side, size: 54, values: (_, ticks) => ticks.map((tick) => number(tick)) },
      ],
      series: [{}, ...lines],
      bands,
      hooks: {
        setCursor: [
          (plot) => {
            const at = plot.cursor.idx;
            const note = place.current?.querySelector(".note");
            if (!note) return;
            if (at === null || at === undefined) return void (note.textContent = "");
            const parts = lines.flatMap((line, i) => (line.told && plot.data[i + 1][at] !== null ? [`${line.told} ${number(plot.data[i + 1][at])}`] : []));
            note.textContent = `${axis} ${number(plot.data[0][at])}  ${parts.join("  ")}`;
          },
        ],
      },
    };
    const target = place.current.querySelector(".plot");
    const plot = new uPlot(options, data, target);
    const resized = new ResizeObserver(() => plot.setSize({ width: place.current.clientWidth || 300, height }));
    resized.observe(place.current);
    return () => {
      resized.disconnect();
      plot.destroy();
    };
  }, [told, height, near]);
  const last = series.length === 1 ? series[0].y.findLast((value) => value !== null) : null;
  return html`<figure class="chart" ref=${place} title=${words}>
    <figcaption><b>${title}</b> ${last !== null && last !== undefined && html`<span class="value">${number(last)}</span>`}
      <span class="quiet note"></span></figcaption>
    <div class="plot"></div>
  </figure>`;
}

/** One common x for all series, as uPlot wants it, with a band from `low` to `high` behind each line. */
function laidOut(series) {
  const all = [...new Set(series.flatMap((one) => one.x))].filter((x) => x !== null).sort((a, b) => a - b);
  const place = new Map(all.map((x, i) => [x, i]));
  const [data, lines, bands] = [[all], [], []];
  for (const one of series) {
    const column = (values) => {
      const found = new Array(all.length).fill(null);
      one.x.forEach((x, i) => (found[place.get(x)] = values[i]));
      return found;
    };
    const ends = one.low && one.low.some((low, i) => low !== one.high[i]);
    if (ends) {
      const first = lines.length + 1;
      lines.push({ width: 0, points: { show: false }, spanGaps: true }, { width: 0, points: { show: false }, spanGaps: true });
      data.push(column(one.high), column(one.low));
      bands.push({ series: [first, first + 1], fill: `${one.colour}30` });
    }
    lines.push({
      stroke: one.colour,
      width: 1.6,
      told: one.name || " ",
      spanGaps: true,
      points: { show: Boolean(one.dots) || one.x.length < 30, size: 4, fill: one.colour },
    });
    data.push(column(one.y));
  }
  return { data, lines, bands };
}
