// All that a page knows: scores, spots and how the run is, placed on one axis.
//
// The axis is media time; another half goes on behind what is there already. Another run of a live stream goes on too,
// in a later epoch; a run that begins anew says the same spots again, so all that was there goes.

const LEAST_SCORE = 0.01;
const MOST_POINTS = 20_000;
const MOST_SPOTS = 2_000;
const BETWEEN_S = 2; // of one part of the axis and the next

export class Store {
  hello = null;
  status = null;
  clock = null;
  stats = null;
  spots = new Map();
  lanes = new Map();
  parts = [];
  now = null; // the newest place on the axis
  nowAt = 0; // when that was, by performance.now()
  present = false; // whether the history is through
  connected = false;
  cleared = () => {}; // told when a run has begun anew
  #clips = new Map();
  #newest = null; // half and epoch of the newest row
  #fresh = false; // whether the run has said hello, but no row yet

  /** Take an event; return the spot that it is about, if it is about one. */
  take(kind, data) {
    if (kind === "hello") this.#greet(data);
    else if (kind === "status" || kind === "clock" || kind === "stats") this[kind] = data;
    else if (kind === "past") data.rows.forEach((row) => this.#row(...row));
    else if (kind === "scores") this.#scores(data);
    else if (kind === "spot") return this.#spot(data);
    else if (kind === "clip") return this.#clip(data);
    else if (kind === "present") this.#arrive(data);
    return null;
  }

  get labels() {
    return [...this.lanes.keys()];
  }

  /** Whether the run has ended by itself, or by command. */
  get ended() {
    return this.status?.state === "stopped";
  }

  /** The seconds promised for a label; undefined if nothing is. */
  promise(label) {
    return this.status?.promise?.[label] ?? this.hello?.promise?.[label];
  }

  /** Media time at a place on the axis, and in which half that is. */
  at(x) {
    let part = this.parts[0];
    for (const other of this.parts) if (x >= other.start) part = other;
    return part ? { half: part.half, time: x - part.offset } : { half: 1, time: x };
  }

  /** Spots from a place on the axis to another, in order. */
  between(from, to) {
    return [...this.spots.values()].filter((s) => s.x >= from && s.x <= to).sort((a, b) => a.x - b.x);
  }

  #greet(hello) {
    if (this.hello && hello.run !== this.hello.run) {
      this.#fresh = true;
      this.status = this.clock = this.stats = null;
    }
    this.hello = hello;
    this.present = false;
    for (const label of hello.labels) this.#lane(label);
  }

  #arrive(newest) {
    if (newest.half) this.#advance(this.#place(newest.half, newest.media_time));
    this.present = true;
  }

  #lane(label) {
    if (!this.lanes.has(label)) this.lanes.set(label, { xs: [], scores: [] });
    return this.lanes.get(label);
  }

  /** Let go what was there if a run begins anew: in no later epoch. Rows alone tell, as old words may be taken back. */
  #follow(half, epoch) {
    const [lastHalf, lastEpoch] = this.#newest ?? [0, 0];
    if (this.#fresh && (half < lastHalf || (half === lastHalf && epoch <= lastEpoch))) this.#clear();
    this.#fresh = false;
    this.#newest = [half, epoch];
  }

  #clear() {
    for (const kept of [this.spots, this.lanes, this.#clips]) kept.clear();
    for (const label of this.hello.labels) this.#lane(label);
    this.parts = [];
    this.now = null;
    this.cleared();
  }

  #place(half, time) {
    let part = this.parts.find((p) => p.half === half);
    if (!part) {
      const offset = this.now === null ? 0 : Math.ceil(this.now) + BETWEEN_S - time;
      part = { half, offset, start: this.parts.length ? time + offset : -Infinity };
      this.parts.push(part);
    }
    return part.offset + time;
  }

  #advance(x) {
    if (this.now !== null && x <= this.now) return;
    this.now = x;
    this.nowAt = performance.now();
  }

  #scores(message) {
    for (const row of message.rows) this.#row(message.half, message.epoch, row.media_time, row.scores);
    this.#advance(this.#place(message.half, message.media_time));
  }

  #row(half, epoch, time, scores) {
    this.#follow(half, epoch);
    const x = this.#place(half, time);
    for (const [label, score] of Object.entries(scores)) {
      if (score < LEAST_SCORE) continue;
      const { xs, scores: lane } = this.#lane(label);
      if (xs.length && x <= xs[xs.length - 1]) continue; // told once more
      xs.push(x);
      lane.push(score);
      if (xs.length > MOST_POINTS) {
        xs.splice(0, MOST_POINTS / 4);
        lane.splice(0, MOST_POINTS / 4);
      }
    }
    this.#advance(x);
  }

  #spot(message) {
    const known = this.spots.get(message.id);
    if (known && known.revision > message.revision) return known;
    const spot = { ...message, x: this.#place(message.half, message.media_time), clip: this.#clips.get(message.id) };
    this.#lane(spot.label);
    this.spots.delete(spot.id);
    this.spots.set(spot.id, spot);
    if (this.spots.size > MOST_SPOTS) this.spots.delete(this.spots.keys().next().value);
    this.#advance(this.#place(message.half, message.emitted_at));
    return spot;
  }

  #clip(message) {
    this.#clips.set(message.id, message.url);
    if (this.#clips.size > MOST_SPOTS) this.#clips.delete(this.#clips.keys().next().value);
    const spot = this.spots.get(message.id);
    if (spot) spot.clip = message.url;
    return spot ?? null;
  }
}

/** What a delay is made of, in order. */
export const PARTS = ["grid", "look_ahead", "hold", "compute", "publish"];

/** From the action to the word, in media time. */
export const delayOf = (spot) => spot.emitted_at - spot.media_time;
