// The timeline: a lane a label, its scores as a filled curve, its spots as marks. Draws when something has changed.

import { drawAxis, drawCurve, drawGrid, FONT, line, lower } from "./drawing.js";
import { asPercent, decimal, mediaTime } from "./format.js";
import { delayOf } from "./store.js";

const SPANS = [30, 60, 120, 300, 600, 1800, 3600, 7200];
const SHOWN_SCORE = 0.2; // a lane whose scores stay below is quiet
const SMOOTH_UP_TO_S = 300;
const FRAME_MS = 40;
const COLOURS = ["text", "muted", "line", "grid", "curve", "curve-edge", "accent", "warn", "bad", "pending", "panel"];

export class Timeline {
  span = 120;
  follow = true;
  chosen = null; // id of a spot
  #end = 0; // the right edge, on the axis
  #lanes = []; // {label, top, height, busy}
  #marks = []; // {spot, x, y}
  #drawnAt = 0;
  #dirty = true;

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {HTMLElement} tip shows what is under the pointer.
   * @param {import("./store.js").Store} store
   * @param {{choose: (spot: object|null) => void, play: (spot: object) => void, moved: () => void}} told
   */
  constructor(canvas, tip, store, told) {
    Object.assign(this, { canvas, tip, store, told });
    this.pen = canvas.getContext("2d");
    this.still = matchMedia("(prefers-reduced-motion: reduce)");
    new ResizeObserver(() => this.touch()).observe(canvas.parentElement);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#restyle());
    document.fonts?.ready.then(() => this.touch());
    this.#restyle();
    this.#listen();
    requestAnimationFrame((at) => this.#frame(at));
  }

  /** Draw anew, soon. */
  touch() {
    this.#dirty = true;
  }

  /** What is shown, on the axis. */
  get range() {
    return [this.#end - this.span, this.#end];
  }

  /** Show the newest again, and go with it. */
  live() {
    this.#go(null);
  }

  /** Stand still, or go on from the newest. */
  pause(on) {
    this.#go(on ? this.#end : null);
  }

  /** Show an earlier part, or a later one. */
  shift(share) {
    this.#go(this.#end + share * this.span);
  }

  /** Show more time, or less; what is in the middle stays, but what is live stays live. */
  zoom(step) {
    const at = SPANS.indexOf(this.span);
    const next = SPANS[Math.min(SPANS.length - 1, Math.max(0, at + step))];
    const middle = this.#end - this.span / 2;
    this.span = next;
    this.#go(this.follow ? null : middle + next / 2);
  }

  /** Show a spot in the middle, and choose it. */
  jump(spot) {
    this.#choose(spot);
    this.#go(spot.x + this.span / 2);
  }

  /** Choose the next spot after the chosen one, or the one before it. */
  step(by) {
    const all = [...this.store.spots.values()].sort((a, b) => a.x - b.x);
    if (!all.length) return;
    const at = all.findIndex((s) => s.id === this.chosen);
    const from = at < 0 ? all.length - (by > 0) : at; // none is chosen: begin with the newest
    const next = all[Math.min(all.length - 1, Math.max(0, from + by))];
    this.#choose(next);
    if (next.x < this.range[0] || next.x > this.range[1]) this.#go(next.x + this.span / 2);
  }

  /** Lanes that are shown, for the table. */
  table() {
    const [from, to] = this.range;
    return this.store.labels.map((label) => {
      const { xs, scores } = this.store.lanes.get(label);
      let best = null;
      for (let i = lower(xs, from); i < xs.length && xs[i] <= to; i++) {
        if (best === null || scores[i] > scores[best]) best = i;
      }
      const spots = this.store.between(from, to).filter((s) => s.label === label);
      return { label, score: best === null ? 0 : scores[best], x: best === null ? null : xs[best], spots };
    });
  }

  #go(end) {
    const newest = this.store.now ?? 0;
    this.follow = end === null;
    this.#end = this.follow ? newest : Math.min(end, newest);
    this.touch();
    this.told.moved();
  }

  #choose(spot) {
    this.chosen = spot?.id ?? null;
    this.canvas.setAttribute("aria-valuenow", String(Math.round(spot?.media_time ?? 0)));
    this.canvas.setAttribute("aria-valuetext", spot ? describe(spot) : "No spot chosen");
    this.told.choose(spot);
    this.touch();
  }

  #restyle() {
    const style = getComputedStyle(document.documentElement);
    this.colour = Object.fromEntries(COLOURS.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
    this.touch();
  }

  // Drawing

  #frame(at) {
    requestAnimationFrame((next) => this.#frame(next));
    if (document.hidden || at - this.#drawnAt < FRAME_MS) return;
    const moving = this.follow && this.#advance(Math.min(0.25, (at - this.#drawnAt) / 1000));
    this.#drawnAt = at;
    if (!moving && !this.#dirty) return;
    this.#dirty = false;
    this.#draw();
  }

  /** Go with the newest second, smoothly where that is wanted; return whether anything moved. */
  #advance(passed) {
    const { now, nowAt, hello } = this.store;
    if (now === null) return false;
    const smooth = hello?.live && !this.still.matches && this.span <= SMOOTH_UP_TO_S;
    const target = smooth ? now + Math.min(1.2, (performance.now() - nowAt) / 1000) : now;
    const before = this.#end;
    const far = Math.abs(target - before) > Math.max(4, this.span / 10);
    this.#end = !smooth || far ? target : before + (target - before) * Math.min(1, passed * 4);
    return Math.abs(this.#end - before) > 1e-3;
  }

  #layout(width) {
    const box = this.canvas.parentElement;
    const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
    const [from, to] = this.range;
    const narrow = width < 34 * rem;
    const axis = 1.5 * rem;
    const quiet = 0.95 * rem;
    const busy = this.store.labels.filter((label) => this.#busy(label, from, to));
    const all = this.store.labels.length;
    const room = box.clientHeight - axis - (all - busy.length) * quiet;
    const least = (narrow ? 2.8 : 1.8) * rem;
    const tall = Math.max(least, Math.min(7 * rem, busy.length ? room / busy.length : 0));
    let top = 0;
    this.#lanes = this.store.labels.map((label) => {
      const height = busy.includes(label) ? tall : quiet;
      top += height;
      return { label, top: top - height, height, busy: busy.includes(label) };
    });
    return { rem, axis, height: top + axis, left: narrow ? 0 : 10.5 * rem, narrow };
  }

  #busy(label, from, to) {
    const { xs, scores } = this.store.lanes.get(label);
    for (let i = lower(xs, from); i < xs.length && xs[i] <= to; i++) if (scores[i] >= SHOWN_SCORE) return true;
    for (const s of this.store.spots.values()) if (s.label === label && s.x >= from && s.x <= to) return true;
    return false;
  }

  #draw() {
    const { canvas, pen } = this;
    const width = canvas.parentElement.clientWidth;
    const plan = this.#layout(width);
    const ratio = devicePixelRatio || 1;
    const size = [Math.round(width * ratio), Math.round(plan.height * ratio)];
    if (canvas.width !== size[0] || canvas.height !== size[1]) {
      [canvas.width, canvas.height] = size;
      canvas.style.height = `${plan.height}px`;
    }
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, plan.height);
    const [from, to] = this.range;
    const right = width - 0.5 * plan.rem;
    this.scale = { from, left: plan.left, per: (right - plan.left) / this.span, right };
    this.#marks = [];
    drawGrid(this, plan);
    for (const lane of this.#lanes) this.#lane(lane, plan, from, to);
    this.#newest(plan);
    drawAxis(this, plan);
    canvas.setAttribute("aria-valuemax", String(Math.max(0, Math.round(this.store.now ?? 0))));
  }

  /** Where a place on the axis is drawn. */
  x(at) {
    return this.scale.left + (at - this.scale.from) * this.scale.per;
  }

  #lane(lane, plan, from, to) {
    const { pen, colour } = this;
    const base = Math.round(lane.top + lane.height) - 0.5;
    pen.strokeStyle = colour.line;
    line(pen, 0, base, this.scale.right, base);
    pen.save();
    pen.beginPath();
    pen.rect(this.scale.left, lane.top, this.scale.right - this.scale.left, lane.height);
    pen.clip();
    this.#undecided(lane, to);
    const height = lane.height - (lane.busy ? (plan.narrow ? 1.35 : 0.65) * plan.rem : 2);
    drawCurve(this, lane, base, height);
    this.#threshold(lane, base, height);
    pen.restore();
    this.#name(lane, plan);
    for (const spot of this.store.between(from, to)) if (spot.label === lane.label) this.#mark(spot, base, height, plan);
  }

  #name(lane, plan) {
    const { pen, colour } = this;
    const muted = this.store.status?.muted?.includes(lane.label);
    const size = lane.busy ? (plan.narrow ? 0.8 : 0.95) : 0.72;
    const text = muted ? `${lane.label} (muted)` : lane.label;
    pen.font = `${lane.busy ? 600 : 400} ${size * plan.rem}px ${FONT}`;
    pen.textAlign = "left";
    pen.textBaseline = "middle";
    const y = lane.busy && plan.narrow ? lane.top + 0.62 * plan.rem : lane.top + lane.height / 2;
    if (plan.narrow) {
      pen.fillStyle = colour.panel;
      pen.globalAlpha = 0.75;
      pen.fillRect(0, y - 0.55 * size * plan.rem, pen.measureText(text).width + 4, 1.1 * size * plan.rem);
      pen.globalAlpha = 1;
    }
    pen.fillStyle = lane.busy && !muted ? colour.text : colour.muted;
    pen.fillText(text, 0, y, plan.narrow ? undefined : plan.left - 0.6 * plan.rem);
  }

  /** What can still become a spot, or not: from the promise up to now. */
  #undecided(lane, to) {
    const promise = this.store.promise(lane.label);
    const { now } = this.store;
    if (promise === undefined || now === null) return;
    this.pen.fillStyle = this.colour.pending;
    this.pen.fillRect(this.x(now - promise), lane.top, (Math.min(to, now) - now + promise) * this.scale.per, lane.height);
  }

  /** A threshold that was set by command. */
  #threshold(lane, base, height) {
    const threshold = this.store.status?.thresholds?.[lane.label];
    if (threshold === undefined || !lane.busy) return;
    this.pen.strokeStyle = this.colour.warn;
    this.pen.setLineDash([3, 5]);
    line(this.pen, this.scale.left, base - threshold * height, this.scale.right, base - threshold * height);
    this.pen.setLineDash([]);
  }

  /** A spot, as high as its confidence. */
  #mark(spot, base, height, plan) {
    const { pen, colour } = this;
    const x = this.x(spot.x);
    const radius = (this.span > 900 ? 0.22 : 0.36) * plan.rem;
    const y = base - Math.max(radius + 3, spot.confidence * height);
    this.#marks.push({ spot, x, y });
    pen.lineWidth = 2;
    pen.strokeStyle = { confirmed: colour.accent, provisional: colour.warn, retracted: colour.muted }[spot.state];
    pen.setLineDash(spot.state === "confirmed" ? [] : [2, 3]);
    pen.globalAlpha = 0.6;
    line(pen, x, y + radius, x, base);
    pen.globalAlpha = 1;
    pen.setLineDash([]);
    pen.beginPath();
    pen.arc(x, y, radius, 0, 2 * Math.PI);
    pen.fillStyle = spot.state === "confirmed" ? colour.accent : colour.panel;
    pen.fill();
    pen.stroke();
    if (spot.state === "retracted") {
      const arm = radius * 1.35;
      line(pen, x - arm, y - arm, x + arm, y + arm);
      line(pen, x - arm, y + arm, x + arm, y - arm);
    }
    if (spot.id === this.chosen) {
      pen.strokeStyle = colour.text;
      pen.beginPath();
      pen.arc(x, y, radius + 4, 0, 2 * Math.PI);
      pen.stroke();
    }
    pen.lineWidth = 1;
  }

  #newest(plan) {
    if (this.store.now === null || this.store.now > this.range[1] + 1) return;
    const x = Math.min(this.scale.right, this.x(this.store.now));
    this.pen.strokeStyle = this.colour.accent;
    this.pen.lineWidth = 2;
    line(this.pen, x, 0, x, plan.height - plan.axis);
    this.pen.lineWidth = 1;
  }

  // Pointer and keys

  #listen() {
    const { canvas } = this;
    let drag = null;
    canvas.addEventListener("pointerdown", (event) => {
      drag = { x: event.clientX, end: this.#end, moved: false };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (drag && Math.abs(event.clientX - drag.x) > 4) drag.moved = true;
      if (drag?.moved) this.#go(drag.end - (event.clientX - drag.x) / this.scale.per);
      else this.#show(this.#under(event));
    });
    canvas.addEventListener("pointerup", (event) => {
      const spot = drag?.moved ? null : this.#under(event);
      drag = null;
      if (!spot) return;
      const again = this.chosen === spot.id;
      this.#choose(spot);
      this.#show(spot);
      if (again && spot.clip) this.told.play(spot);
    });
    canvas.addEventListener("pointercancel", () => (drag = null));
    canvas.addEventListener("pointerleave", () => this.#show(null));
    canvas.addEventListener("blur", () => this.#show(null));
    canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.parentElement.addEventListener("scroll", () => this.#draw()); // the axis stays in sight
  }

  #wheel(event) {
    if (event.ctrlKey) this.zoom(event.deltaY > 0 ? 1 : -1);
    else if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) this.#go(this.#end + event.deltaX / this.scale.per);
    else return; // the page scrolls
    event.preventDefault();
  }

  #key(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by && event.shiftKey) this.shift(by / 4);
    else if (by) this.step(by);
    else if (event.key === "Home" || event.key === "End") this.step(event.key === "Home" ? -Infinity : Infinity);
    else if (event.key === "Enter" && this.chosen) this.told.play(this.store.spots.get(this.chosen));
    else return;
    event.preventDefault();
    requestAnimationFrame(() => {
      this.#draw();
      this.#show(this.store.spots.get(this.chosen) ?? null);
    });
  }

  #under(event) {
    const box = this.canvas.getBoundingClientRect();
    const reach = event.pointerType === "touch" ? 26 : 14;
    let best = null;
    for (const mark of this.#marks) {
      const away = Math.hypot(mark.x - (event.clientX - box.left), mark.y - (event.clientY - box.top));
      if (away < reach && (!best || away < best.away)) best = { ...mark, away };
    }
    return best?.spot ?? null;
  }

  #show(spot) {
    const mark = spot && this.#marks.find((m) => m.spot.id === spot.id);
    this.tip.hidden = !mark;
    this.canvas.style.cursor = mark ? "pointer" : "";
    if (!mark) return;
    this.tip.textContent = describe(spot) + (spot.clip ? " · clip" : "");
    const most = this.canvas.clientWidth - this.tip.offsetWidth - 4;
    this.tip.style.left = `${Math.max(4, Math.min(most, mark.x - this.tip.offsetWidth / 2))}px`;
    const above = mark.y - this.tip.offsetHeight - 14;
    this.tip.style.top = `${above > 0 ? above : mark.y + 14}px`;
  }
}

/** A spot in words. */
export function describe(spot) {
  const parts = [spot.label, mediaTime(spot.media_time), `${spot.state}, ${asPercent(spot.confidence)}`];
  return [...parts, `${decimal(delayOf(spot))} s after the action`].join(" · ");
}
