// Health, delay against the promise, and where the time goes.

import { asCount, decimal, drawn, element } from "./format.js";
import { delayOf, PARTS } from "./store.js";

const SIGNS = { ok: "●", warning: "▲", failed: "■" };
const COUNTED = { seconds_shed: "seconds shed", deadlines_missed: "deadlines missed", decisions_forced: "decisions forced", source_openings: "source opened", spots_lost: "spots lost" };
const LATEST = 300;
const ROUNDING_S = 1e-3;
const $ = (id) => document.getElementById(id);
const fact = (name, value) => element("div", {}, element("dt", { text: name }), element("dd", { text: value }));

/** Show how each part of the streamer does. */
export function showHealth(store) {
  const { status, hello, stats } = store;
  const roles = Object.entries(status?.health ?? {});
  $("health").replaceChildren(
    ...roles.map(([role, { state, reason }]) =>
      element("li", { "data-state": state },
        element("span", { className: "sign", text: SIGNS[state], "aria-hidden": "true" }),
        element("b", { text: role }),
        element("span", { className: "why", text: reason ?? (state === "ok" ? "ok" : state) }),
      ),
    ),
  );
  const { pending = 0, dropped = 0 } = stats?.outbox ?? {};
  const counted = { ...(stats?.statistics ?? status?.statistics ?? {}) };
  $("counts").replaceChildren(
    ...(stats && "pending" in stats.outbox ? [fact("waiting for the broker", asCount(pending))] : []),
    ...(dropped ? [fact("spots dropped", asCount(dropped))] : []),
    ...Object.entries(COUNTED).filter(([key]) => key in counted).map(([key, name]) => fact(name, asCount(counted[key]))),
    ...(counted.real_time_factor ? [fact("speed", `${decimal(counted.real_time_factor)}×`)] : []),
  );
  const bundle = status?.bundle ?? hello?.bundle;
  $("facts").replaceChildren(
    ...(bundle ? [fact("bundle", `${bundle.name} ${bundle.digest.slice(0, 8)}`)] : []),
    fact("run", status?.run ?? hello?.run ?? "–"),
    fact("version", hello?.version ?? "–"),
  );
}

/** Show the delay of each confirmed spot beside what is promised for its label. */
export function showPromise(store) {
  const all = [...store.spots.values()].filter((s) => s.state === "confirmed");
  const spots = all.slice(-LATEST);
  const promised = spots.filter((s) => store.promise(s.label) !== undefined);
  const late = promised.filter((s) => delayOf(s) > store.promise(s.label) + ROUNDING_S);
  const missed = store.stats?.statistics?.deadlines_missed ?? 0;
  const kept = promised.length - late.length;
  const of = spots.length < all.length ? "of the last" : "of";
  $("kept").textContent = promised.length ? `${asCount(kept)} ${of} ${asCount(promised.length)}` : "–";
  $("kept").dataset.state = late.length || missed ? "failed" : "ok";
  $("kept-note").textContent = promised.length ? keptNote(promised, missed) : spots.length ? "nothing is promised" : "nothing confirmed yet";
  const longest = Math.max(1, ...spots.map(delayOf), ...store.labels.map((l) => store.promise(l) ?? 0)) * 1.04;
  const labels = store.labels.filter((label) => spots.some((s) => s.label === label));
  $("strips").replaceChildren(
    ...labels.map((label) => strip(label, spots.filter((s) => s.label === label), store.promise(label), longest)),
    ...(labels.length ? [scale(longest)] : []),
  );
}

function keptNote(spots, missed) {
  const slowest = decimal(Math.max(...spots.map(delayOf)));
  const by = missed ? ` ${asCount(missed)} missed by the wall clock.` : " None missed.";
  return `words within the promise, the slowest after ${slowest}\u00a0s.${by}`;
}

function strip(label, spots, promise, longest) {
  const slowest = Math.max(...spots.map(delayOf));
  const said = promise === undefined ? "nothing promised" : `${decimal(promise)} s promised`;
  const plot = drawn("svg", { role: "img", "aria-label": `${label}: ${spots.length} spots, slowest ${decimal(slowest)} s, ${said}` });
  const at = (seconds) => `${(100 * seconds) / longest}%`;
  plot.append(drawn("line", { class: "track", x1: 0, x2: "100%", y1: "50%", y2: "50%" }));
  for (const spot of spots) {
    const delay = delayOf(spot);
    const late = promise !== undefined && delay > promise + ROUNDING_S;
    if (late) plot.append(drawn("rect", { class: "late", x: at(delay), y: "50%", width: 9, height: 9, transform: "translate(-4.5 -4.5)" }));
    else plot.append(drawn("circle", { class: "kept", cx: at(delay), cy: "50%", r: 4 }));
  }
  if (promise !== undefined) plot.append(drawn("line", { class: "promised", x1: at(promise), x2: at(promise), y1: "8%", y2: "92%" }));
  return element("div", { className: "strip" }, element("span", { text: label }), plot, element("span", { className: "num", text: decimal(slowest) }));
}

function scale(longest) {
  const plot = drawn("svg", { "aria-hidden": "true" });
  for (let s = 0; s <= longest; s += longest > 12 ? 5 : 1) {
    const text = drawn("text", { x: `${(100 * s) / longest}%`, y: "60%", class: s === 0 ? "first" : "" });
    text.textContent = s;
    plot.append(text);
  }
  return element("div", { className: "strip scale" }, element("span", { text: "seconds" }), plot, element("span", {}));
}

/** Show how long each part of the way takes. */
export function showLatency(store) {
  const parts = store.stats?.latency ?? {};
  const names = [...PARTS, "total"].filter((part) => part in parts);
  const sum = PARTS.filter((part) => part in parts).reduce((all, part) => all + parts[part].p50, 0) || 1;
  let before = 0;
  $("parts").replaceChildren(
    ...names.filter((part) => part !== "total").map((part) => {
      const width = (100 * parts[part].p50) / sum;
      const bar = drawn("rect", { class: `part ${part}`, x: `${before}%`, width: `${width}%`, y: 0, height: "100%" });
      before += width;
      return bar;
    }),
  );
  $("parts").setAttribute("aria-label", names.map((part) => `${part.replace("_", "-")} ${decimal(parts[part].p50, 2)} s`).join(", ") || "Nothing measured yet");
  $("latency").replaceChildren(
    ...names.map((part) => {
      const head = element("th", { scope: "row" }, element("i", { className: `key ${part}`, "aria-hidden": "true" }), part.replace("_", "-"));
      const cells = ["p50", "p95", "max"].map((key) => element("td", { className: "num", text: decimal(parts[part][key], 2) }));
      return element("tr", { className: part }, head, ...cells);
    }),
  );
}
