// The dashboard: what is heard goes into the store, and from there into each part of the page.

import { connect } from "./connection.js";
import { asPercent, element, mediaTime, span, wallTime } from "./format.js";
import { showHealth, showLatency, showPromise } from "./panels.js";
import { ClipDialog, SpotList } from "./spots.js";
import { Store } from "./store.js";
import { Timeline } from "./timeline.js";

const $ = (id) => document.getElementById(id);
const SHORTCUTS = "touchline-shortcuts";
const store = new Store();
const dirty = new Set();

const list = new SpotList(store, press);
const clip = new ClipDialog(list, store, showPicture);
const timeline = new Timeline($("canvas"), $("tip"), store, {
  choose: markChosen,
  play: (spot) => spot?.clip && clip.play(spot),
  moved: showTools,
});
store.cleared = () => {
  timeline.live();
  dirty.add("spots").add("promise");
};

/** Jump to a spot, and play its clip if there is one. */
function press(spot) {
  if (!spot) return;
  timeline.jump(spot);
  if (spot.clip) clip.play(spot);
}

function markChosen(spot) {
  for (const marked of document.querySelectorAll("#spots [aria-current]")) marked.removeAttribute("aria-current");
  if (!spot) return;
  const at = list.shown.indexOf(store.spots.get(spot.id));
  $("spots").children[at]?.firstChild.setAttribute("aria-current", "true");
}

// What is heard

function heard(kind, data) {
  const before = kind === "spot" ? store.spots.get(data.id) : undefined;
  const spot = store.take(kind, data);
  if (kind === "spot" && store.present && spot.state === "confirmed" && before?.state !== "confirmed") {
    $("said").textContent = `${spot.label}, confirmed at ${mediaTime(spot.media_time)}`;
  }
  if (kind === "hello") greet();
  timeline.touch();
  for (const part of { spot: ["spots", "promise"], clip: ["spots"], status: ["status"], stats: ["status", "promise"], clock: ["clock"], scores: ["clock"], hello: ["status"], past: ["clock"], present: ["clock"] }[kind] ?? []) dirty.add(part);
}

function greet() {
  list.offer(store.hello.labels);
  $("stream").textContent = store.hello.stream;
  showPicture();
}

function changed(up) {
  store.connected = up;
  dirty.add("status").add("clock");
  showPicture(); // a lost one is asked for again, since a picture that stands still tells nobody
}

const shows = { spots: () => list.show(), promise: showDelay, status: showStatus, clock: showClock };

function showDelay() {
  showPromise(store);
  showLatency(store);
}

/** Bring what has changed up to date, at most some ten times a second: a replay says much in a short time. */
setInterval(() => {
  const parts = [...dirty];
  dirty.clear();
  for (const part of parts) shows[part]();
}, 100);

setInterval(() => {
  if ($("table").open) showTable();
  $("wall-time").textContent = wallTime(Date.now());
  list.latest();
}, 1000);

function showStatus() {
  const { status, hello, connected, ended } = store;
  const state = status?.state ?? "online";
  const source = status?.source?.state;
  let [name, text] = hello?.live ? ["live", "Live"] : ["replay", "Replay"];
  if (ended) [name, text] = ["stopped", "Stopped"];
  else if (!connected) [name, text] = ["lost", "Not connected"];
  else if (state !== "online") [name, text] = ["lost", "Offline"];
  else if (status?.paused) [name, text] = ["paused", "Paused"];
  else if (source && !["running", "ended"].includes(source)) [name, text] = ["waiting", `Source ${source}`];
  $("state").dataset.state = name;
  $("state").textContent = text;
  const lost = !connected && !ended;
  $("alert").hidden = !lost;
  $("alert").textContent = lost ? "The connection to the streamer is lost. What is shown stays; it is looked for again." : "";
  const notices = [
    ended ? "Stopped: the run has ended. What is shown stays." : "",
    status?.paused ? "Paused by command: nothing is said." : "",
    status?.muted?.length ? `Muted by command: ${status.muted.join(", ")}.` : "",
    ...Object.entries(status?.thresholds ?? {}).map(([label, share]) => `${label}: threshold set to ${asPercent(share)}.`),
  ].filter(Boolean);
  $("notice").hidden = !notices.length;
  $("notice").textContent = notices.join(" ");
  showHealth(store);
}

function showClock() {
  if (store.now === null) return;
  const { half, time } = store.at(store.now);
  $("media-time").textContent = store.parts.some((p) => p.half > 1) ? `${half} | ${mediaTime(time)}` : mediaTime(time);
  const names = { rtcp: "the sender’s clock", prft: "the stream’s clock", hls: "the playlist’s clock", arrival: "arrival" };
  const { clock, utc, media_time: told } = store.clock ?? {};
  const taken = Date.parse(utc) + 1000 * (time - told); // told every few seconds, of one moment
  const known = utc && store.clock.half === half && store.connected && !store.ended;
  $("clock-note").textContent = known ? `picture of ${wallTime(taken)}, by ${names[clock] ?? clock}` : "";
  document.title = `${mediaTime(time)} ${store.hello?.stream ?? ""} – touchline`;
}

function showTable() {
  $("table-rows").replaceChildren(
    ...timeline.table().filter((row) => row.x !== null || row.spots.length).map(({ label, score, x, spots }) =>
      element("tr", {},
        element("th", { scope: "row", text: label }),
        element("td", { className: "num", text: asPercent(score) }),
        element("td", { className: "num", text: x === null ? "" : mediaTime(store.at(x).time) }),
        element("td", { text: spots.map((s) => `${mediaTime(s.media_time)} ${s.state}`).join(", ") }),
      ),
    ),
  );
}

// The picture: fetched only while somebody can see it, and its connection is not wanted for a clip

let wanted = true;

function showPicture() {
  const offered = Boolean(store.hello?.preview);
  $("preview-panel").hidden = !offered;
  const loaded = document.readyState === "complete"; // or the browser says that it is loading, until a picture comes
  const on = offered && wanted && store.connected && loaded && !document.hidden && !$("clip").open;
  $("preview-toggle").textContent = wanted ? "Hide" : "Show";
  $("preview-panel").dataset.wanted = String(wanted);
  if (on === $("preview").hasAttribute("src")) return;
  $("preview-panel").removeAttribute("data-there");
  if (on) $("preview").src = `/preview?${Date.now()}`;
  else $("preview").removeAttribute("src");
}

function dropPicture() {
  $("preview").removeAttribute("src");
  $("preview-panel").removeAttribute("data-there");
  setTimeout(showPicture, 2000);
}

$("preview").addEventListener("load", () => ($("preview-panel").dataset.there = ""));
$("preview").addEventListener("error", dropPicture);
document.addEventListener("visibilitychange", showPicture);
addEventListener("load", () => setTimeout(showPicture)); // by then the document is complete
$("preview-toggle").addEventListener("click", togglePicture);

function togglePicture() {
  wanted = !wanted;
  showPicture();
}

// Tools, dialogs and keys

function showTools() {
  $("span").textContent = span(timeline.span);
  $("pause").setAttribute("aria-pressed", String(!timeline.follow));
  $("pause").textContent = timeline.follow ? "Pause" : "Paused";
  $("live").setAttribute("aria-pressed", String(timeline.follow));
  if ($("table").open) showTable();
}

const onPress = (id, action) => $(id).addEventListener("click", action);
onPress("earlier", () => timeline.shift(-0.5));
onPress("later", () => timeline.shift(0.5));
onPress("zoom-out", () => timeline.zoom(1));
onPress("zoom-in", () => timeline.zoom(-1));
onPress("pause", () => timeline.pause(timeline.follow));
onPress("live", () => timeline.live());
onPress("help-open", () => $("help").showModal());
$("table").addEventListener("toggle", () => $("table").open && showTable());
for (const button of document.querySelectorAll("[data-close]")) {
  button.addEventListener("click", () => button.closest("dialog").close());
}
for (const dialog of document.querySelectorAll("dialog")) {
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()); // beside it
}

$("shortcuts").checked = localStorage.getItem(SHORTCUTS) !== "off";
$("shortcuts").addEventListener("change", () => localStorage.setItem(SHORTCUTS, $("shortcuts").checked ? "on" : "off"));

const keys = {
  "?": () => $("help").showModal(),
  " ": () => timeline.pause(timeline.follow),
  l: () => timeline.live(),
  f: () => $("filter").focus(),
  v: togglePicture,
  t: () => ($("table").open = !$("table").open),
  "+": () => timeline.zoom(-1),
  "=": () => timeline.zoom(-1),
  "-": () => timeline.zoom(1),
};

document.addEventListener("keydown", (event) => {
  const busy = event.target.closest("input, select, dialog, video") || event.ctrlKey || event.metaKey || event.altKey;
  const pressing = event.key === " " && event.target.closest("button, summary");
  const action = keys[event.key.toLowerCase()];
  if (!action || busy || pressing || !$("shortcuts").checked) return;
  event.preventDefault();
  action();
});

showTools();
connect(heard, changed);
