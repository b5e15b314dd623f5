// What the timeline draws with.

import { mediaTime } from "./format.js";

const TICKS = [5, 10, 15, 30, 60, 120, 300, 600, 1200, 1800];
const BREAK_S = 1.6; // between scores that are one curve

export const FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'Liberation Sans', sans-serif";

/** Draw the axis and its lines, each part of it in its own media time. */
export function drawAxis(view, plan) {
  const { pen, colour, store, scale } = view;
  const [from, to] = view.range;
  const step = TICKS.find((t) => t * scale.per >= 4.2 * plan.rem) ?? 3600;
  const bottom = plan.height - plan.axis;
  pen.font = `${0.8 * plan.rem}px ${FONT}`;
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  for (const part of store.parts) {
    const next = store.parts[store.parts.indexOf(part) + 1];
    const until = Math.min(to, next ? next.start - 1e-3 : to);
    const first = Math.ceil((Math.max(from, part.start) - part.offset) / step) * step;
    for (let time = first; time + part.offset <= until; time += step) {
      const x = Math.round(view.x(time + part.offset)) + 0.5;
      pen.strokeStyle = colour.grid;
      line(pen, x, 0, x, bottom);
      if (time < 0 || x < scale.left + plan.rem || x > scale.right - plan.rem) continue;
      pen.fillStyle = colour.muted;
      pen.fillText(mediaTime(time), x, plan.height - plan.axis / 2);
    }
    if (part.start > from && part.start < to) {
      pen.strokeStyle = colour.warn;
      line(pen, view.x(part.start), 0, view.x(part.start), bottom);
    }
  }
}

/** Draw the scores of a lane as a filled curve. */
export function drawCurve(view, lane, base, height) {
  const { xs, scores } = view.store.lanes.get(lane.label);
  const { pen, colour } = view;
  const [from, to] = view.range;
  const row = 0.5;
  let open = false;
  const close = (x) => {
    pen.lineTo(x, base);
    pen.closePath();
    open = false;
  };
  pen.beginPath();
  for (let i = Math.max(0, lower(xs, from - BREAK_S)); i < xs.length && xs[i] <= to + BREAK_S; i++) {
    if (open && xs[i] - xs[i - 1] > BREAK_S) close(view.x(xs[i - 1] + row));
    if (!open) pen.moveTo(view.x(xs[i] - row), base);
    open = true;
    pen.lineTo(view.x(xs[i]), base - scores[i] * height);
    if (i + 1 === xs.length || xs[i + 1] > to + BREAK_S) close(view.x(xs[i] + row));
  }
  pen.fillStyle = colour.curve;
  pen.fill();
  pen.strokeStyle = colour["curve-edge"];
  pen.lineWidth = 1.25;
  pen.stroke();
  pen.lineWidth = 1;
}

/** Draw a straight line. */
export function line(pen, x0, y0, x1, y1) {
  pen.beginPath();
  pen.moveTo(x0, y0);
  pen.lineTo(x1, y1);
  pen.stroke();
}

/** The first place in sorted numbers that is not below a value. */
export function lower(sorted, value) {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}
