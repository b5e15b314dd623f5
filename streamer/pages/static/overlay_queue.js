"use strict";
/* Words in, one lower third at a time out: when the programme shows the action, the most important first, each once. */

const LEAST_MS = 2000; // on air, before something more important may take its place
const CORRECTED_MS = 2000; // at least, after a provisional one was confirmed
const HEARD = 5000; // ids remembered
const FURTHEST_MS = 300_000; // between a spot's two accounts of when its action was taken

/** How far this page's clock is ahead of the streamer's, told from what the streamer says every few seconds. */
class StreamerClock {
  constructor() {
    this._ahead = [];
  }

  heard(atUtc) {
    const ahead = Date.now() - Date.parse(atUtc);
    if (Number.isFinite(ahead)) this._ahead = [...this._ahead.slice(-29), ahead];
  }

  /** Of some messages the quickest tells best; the clocks are taken to agree until there is one. */
  get aheadMs() {
    return this._ahead.length ? Math.min(...this._ahead) : 0;
  }
}

/** Return when a spot's action was taken, in ms: its wall clock; by the word's own time where that cannot be. */
function takenMs(spot) {
  const newest = Date.parse(spot.said_utc) - 1000 * (own(spot.latency, "compute") || 0);
  const arrived = newest - 1000 * Math.max(0, spot.emitted_at - spot.media_time);
  const utc = Date.parse(spot.utc);
  return Math.abs(utc - arrived) < FURTHEST_MS ? utc : arrived;
}

class Queue {
  constructor(settings, clock, stage) {
    this._settings = settings;
    this._clock = clock;
    this._stage = stage;
    this._stage.onfree = () => this.step();
    this._waiting = new Map(); // id → item
    this._heard = new Map(); // id → "shown" while provisional, "over" after its final word, or a hand's
    this._playing = true;
    this._timer = null;
  }

  get length() {
    return this._waiting.size;
  }

  /** Let lower thirds come up, or none; what is on air goes. */
  set playing(playing) {
    this._playing = playing;
    if (playing) this.step();
    else this.next();
  }

  /** Take a word about a spot. */
  take(spot) {
    if (this._heard.get(spot.id) === "over") return;
    const { min_confidence: least, provisional } = this._settings.config;
    const final = spot.state !== "provisional";
    if (final) this._note(spot.id, "over");
    const place = this._settings.place(spot.label);
    if (spot.state === "retracted" || place < 0 || spot.confidence < least) this._withdraw(spot.id);
    else if (final && this._stage.current?.id === spot.id) this._stage.confirm(spot, CORRECTED_MS);
    else if (final || (provisional && !this._heard.has(spot.id))) this._add(spot, place);
    this.step();
  }

  /** Take one by hand; it comes at once, however long ago anything was. */
  takeByHand(label, detail) {
    const item = { id: "by hand", place: -1, label, detail, dueMs: 0, lateMs: Infinity, orderMs: 0 };
    this._waiting.set(item.id, item);
    if (this._stage.current?.id === item.id) this._stage.leave();
    this.step();
  }

  /** Let go what is on air, whatever its final word will be; what waits comes after it. */
  next() {
    const { id, provisional } = this._stage.current ?? {};
    if (id && provisional) this._note(id, "over");
    this._stage.leave();
  }

  /** Show what is due; called whenever something has changed, or is due. */
  step() {
    const now = Date.now();
    for (const [id, item] of this._waiting) if (now > item.lateMs) this._waiting.delete(id);
    if (this._playing) this._bring(now);
    clearTimeout(this._timer);
    const yields = (this._stage.current?.sinceMs ?? now) + LEAST_MS;
    const times = [...this._waiting.values()].map((item) => (item.dueMs > now ? item.dueMs : yields));
    const wake = Math.min(...times.filter((time) => time > now), now + 60_000);
    if (this._playing && times.length) this._timer = setTimeout(() => this.step(), wake - now);
  }

  _bring(now) {
    const due = [...this._waiting.values()].filter((item) => item.dueMs <= now);
    const [best] = due.sort((a, b) => a.place - b.place || a.orderMs - b.orderMs);
    const shown = this._stage.current;
    if (best === undefined) return;
    if (shown === null) {
      this._waiting.delete(best.id);
      if (best.provisional) this._note(best.id, "shown");
      this._stage.show(best, now);
    } else if (best.place < shown.place && now - shown.sinceMs >= LEAST_MS) this._stage.leave();
  }

  _add(spot, place) {
    const { programme_delay_s: delay, latest_s: latest } = this._settings.config;
    const dueMs = takenMs(spot) + this._clock.aheadMs + delay * 1000;
    const provisional = spot.state === "provisional";
    const { id, label, media_time: mediaTime, confidence } = spot;
    const item = { id, place, label, provisional, mediaTime, confidence, dueMs, lateMs: dueMs + latest * 1000 };
    this._waiting.set(id, { ...item, orderMs: dueMs });
  }

  _withdraw(id) {
    this._waiting.delete(id);
    if (this._stage.current?.id === id) this._stage.leave();
  }

  _note(id, what) {
    this._heard.delete(id);
    this._heard.set(id, what);
    if (this._heard.size > HEARD) this._heard.delete(this._heard.keys().next().value);
  }
}
