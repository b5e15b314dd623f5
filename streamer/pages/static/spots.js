// The list of spots, newest first, and the dialog that plays a clip.

import { ago, asPercent, decimal, element, mediaTime, wallTime } from "./format.js";
import { delayOf, PARTS } from "./store.js";

const MOST_SHOWN = 200;
const $ = (id) => document.getElementById(id);

export class SpotList {
  #items = new Map();

  /** @param {(spot: object) => void} pressed is told which entry was pressed. */
  constructor(store, pressed) {
    this.store = store;
    this.pressed = pressed;
    $("filter").addEventListener("change", () => this.show());
  }

  /** Offer the labels to filter by. */
  offer(labels) {
    const known = new Set([...$("filter").options].map((option) => option.value));
    for (const label of labels) if (!known.has(label)) $("filter").append(new Option(label, label));
  }

  /** Spots of the chosen label that stand, newest first. */
  get shown() {
    const label = $("filter").value;
    return [...this.store.spots.values()]
      .filter((spot) => spot.state !== "retracted" && (!label || spot.label === label))
      .sort((a, b) => b.x - a.x);
  }

  /** Bring the list up to date; entries that stay keep their focus. */
  show() {
    const shown = this.shown;
    const part = shown.slice(0, MOST_SHOWN);
    const ids = new Set(part.map((spot) => spot.id));
    for (const [id, item] of this.#items) {
      if (!ids.has(id)) {
        item.remove();
        this.#items.delete(id);
      }
    }
    const list = $("spots");
    part.forEach((spot, at) => {
      const item = this.#item(spot);
      if (list.children[at] !== item) list.insertBefore(item, list.children[at] ?? null);
    });
    const confirmed = shown.filter((spot) => spot.state === "confirmed");
    $("spot-count").textContent = confirmed.length || "";
    $("no-spots").hidden = shown.length > 0;
    this.latest(confirmed[0]);
  }

  /** Show the newest confirmed one large. */
  latest(spot = this.shown.find((s) => s.state === "confirmed")) {
    $("latest").hidden = !spot;
    if (!spot) return;
    $("latest-label").textContent = spot.label;
    $("latest-time").textContent = mediaTime(spot.media_time);
    $("latest-age").textContent = this.#age(spot);
    if ($("latest").dataset.spot === spot.id) return;
    $("latest").dataset.spot = spot.id;
    if (this.store.present) $("latest").animate?.([{ opacity: 0.2 }, { opacity: 1 }], { duration: calm() ? 0 : 500 });
  }

  /** How long ago a spot was; nothing where media time stands still for good, or nobody knows. */
  #age(spot) {
    const { now, nowAt, hello, connected, ended } = this.store;
    if (now === null || !connected || ended) return "";
    return ago(now - spot.x + (hello.live ? (performance.now() - nowAt) / 1000 : 0));
  }

  #item(spot) {
    let item = this.#items.get(spot.id);
    const key = `${spot.said_utc} ${spot.state} ${spot.revision} ${spot.clip ?? ""}`;
    if (item?.dataset.key === key) return item;
    if (!item) {
      item = element("li", {}, element("button", { type: "button" }));
      item.firstChild.addEventListener("click", () => this.pressed(this.store.spots.get(spot.id)));
      this.#items.set(spot.id, item);
    }
    item.dataset.key = key;
    item.dataset.state = spot.state;
    const late = `${decimal(delayOf(spot))} s`;
    item.firstChild.replaceChildren(
      element("i", { className: `dot ${spot.state}`, "aria-hidden": "true" }),
      element("span", { className: "num time", text: half(spot, this.store) + mediaTime(spot.media_time) }),
      element("span", { className: "label", text: spot.label }),
      element("span", { className: "sr", text: `, ${spot.state},` }),
      element("span", { className: "num share", text: asPercent(spot.confidence) }),
      element("span", { className: "num late", text: spot.state === "confirmed" ? late : "" }),
      element("span", { className: "play", text: spot.clip ? "▶" : "", "aria-hidden": "true" }),
    );
    if (spot.clip) item.firstChild.append(element("span", { className: "sr", text: "plays the clip" }));
    return item;
  }
}

/** The dialog with a spot's clip. */
export class ClipDialog {
  #spot = null;

  /**
   * @param {SpotList} list says which clip is the next one.
   * @param {() => void} changed is told when the dialog has been opened, before the clip is fetched, and closed.
   */
  constructor(list, store, changed) {
    Object.assign(this, { list, store, changed });
    $("clip-earlier").addEventListener("click", () => this.#step(1));
    $("clip-later").addEventListener("click", () => this.#step(-1));
    $("clip").addEventListener("close", () => {
      $("video").pause();
      $("video").removeAttribute("src");
      $("video").load();
      this.#spot = null;
      changed();
    });
    $("video").addEventListener("error", () => {
      if (this.#spot) $("clip-fault").hidden = false;
    });
  }

  /** Play a spot's clip. */
  play(spot) {
    this.#spot = spot;
    $("clip-title").textContent = `${spot.label} · ${half(spot, this.store)}${mediaTime(spot.media_time)}`;
    $("clip-fault").hidden = true;
    $("clip-file").href = spot.clip;
    $("clip-facts").replaceChildren(...facts(spot));
    if (!$("clip").open) $("clip").showModal();
    this.changed();
    $("video").src = spot.clip;
    $("video").play().catch(() => {}); // the browser may want a press of its own
    $("clip-earlier").disabled = !this.#next(1);
    $("clip-later").disabled = !this.#next(-1);
  }

  #next(by) {
    const clips = this.list.shown.filter((spot) => spot.clip);
    const at = clips.findIndex((spot) => spot.id === this.#spot.id);
    return at < 0 ? undefined : clips[at + by];
  }

  #step(by) {
    const next = this.#next(by);
    if (next) this.list.pressed(next);
  }
}

const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

const half = (spot, store) => (store.parts.some((part) => part.half > 1) ? `${spot.half} | ` : "");

function facts(spot) {
  const parts = PARTS.filter((part) => part in spot.latency).map((part) => `${part.replace("_", "-")} ${decimal(spot.latency[part], 2)}`);
  const rows = [
    ["Confidence", asPercent(spot.confidence)],
    ["Delay", `${decimal(delayOf(spot), 2)} s`],
    ["of which", parts.join(" · ")],
    ["Said at", wallTime(spot.said_utc)],
    ...(spot.flags.length ? [["Flags", spot.flags.join(", ")]] : []),
    ...(spot.bundle ? [["Bundle", spot.bundle.name]] : []),
  ];
  const wide = (name) => ({ className: name === "of which" ? "whole" : "" });
  return rows.map(([name, value]) => element("div", wide(name), element("dt", { text: name }), element("dd", { text: value })));
}
