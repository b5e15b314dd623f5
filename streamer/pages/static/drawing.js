// What the timeline draws with.

import { mediaTime } from "./format.js";

const TICKS = [5, 10, 15, 30, 60, 120, 300, 600, 1200, 1800];
const BREAK_S = 1.6; // between scores that are one curve

export const FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'Liberation Sans', sans-serif";

/** Draw the lines of the axis. */
export function drawGrid(view, plan) {
  const { pen, colour, store } = view;
  const [from, to] = view.range;
  const bottom = plan.height - plan.axis;
  pen.strokeStyle = colour.grid;
  for (const { x } of ticks(view, plan)) line(pen, x, 0, x, bottom);
  pen.strokeStyle = colour.warn;
  for (const { start } of store.parts) if (start > from && start < to) line(pen, view.x(start), 0, view.x(start), bottom);
}

/** Draw the axis, over the lowest of the lanes in sight. */
export function drawAxis(view, plan) {
  const { pen, colour, scale } = view;
  const { scrollTop, clientHeight } = view.canvas.parentElement;
  const top = Math.min(plan.height, scrollTop + clientHeight) - plan.axis;
  pen.fillStyle = colour.panel;
  pen.fillRect(0, top, scale.right + plan.rem, plan.height - top);
  pen.font = `${0.8 * plan.rem}px ${FONT}`;
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  pen.fillStyle = colour.muted;
  for (const { time, x } of ticks(view, plan)) {
    if (time < 0 || x < scale.left + plan.rem || x > scale.right - plan.rem) continue;
    pen.fillText(mediaTime(time), x, top + plan.axis / 2);
  }
}

/** Round times that are in sight, each part of the axis in its own media time, and where they are drawn. */
function* ticks(view, plan) {
  const { store, scale } = view;
  const [from, to] = view.range;
  const step = TICKS.find((t) => t * scale.per >= 4.2 * plan.rem) ?? 3600;
  for (const [at, part] of store.parts.entries()) {
    const next = store.parts[at + 1];
    const until = Math.min(to, next ? next.start - 1e-3 : to);
    const first = Math.ceil((Math.max(from, part.start) - part.offset) / step) * step;
    for (let time = first; time + part.offset <= until; time += step) {
      yield { time, x: Math.round(view.x(time + part.offset)) + 0.5 };
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
