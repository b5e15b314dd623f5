"use strict";
/* The overlay: listens, and shows a lower third when a spot is confirmed. CasparCG's four functions are at the end. */

const query = new URLSearchParams(location.search);
const here = new URL("..", document.currentScript.src); // where the folder `static` is, and the streamer if there is one
const settings = new Settings(window.overlayConfig, query);
const clock = new StreamerClock();
const stage = new Stage(document.getElementById("stage"), settings);
const queue = new Queue(settings, clock, stage);
const operated = query.get("control") === "caspar" || (query.get("control") === null && window.caspar !== undefined);
if (operated) queue.playing = false;

const debug = {
  element: document.getElementById("debug"),
  lines: { source: "not found yet", word: "none yet" },
  say(lines) {
    Object.assign(this.lines, lines, { waiting: queue.length, clock: `${clock.aheadMs} ms ahead` });
    if (!query.has("debug")) return;
    this.element.textContent = Object.entries(this.lines).map((line) => line.join(": ")).join("\n");
    this.element.hidden = false;
  },
};

const heard = {
  spot(spot) {
    if (typeof spot.id !== "string" || typeof spot.label !== "string" || !Number.isFinite(takenMs(spot)))
      throw new Error("this is no spot");
    queue.take(spot);
    debug.say({ word: `${spot.state} ${spot.label} ${spot.id}` });
  },
  clock(atUtc) {
    clock.heard(atUtc);
    debug.say({});
  },
  config(config) {
    settings.use(config);
    queue.step();
  },
  state(text) {
    debug.say({ source: text });
  },
};

/** Return the broker that the address or the config names, never with credentials of the address; null if none. */
function brokerAsked() {
  const broker = { ...settings.config.mqtt };
  for (const name of ["stream", "prefix"]) broker[name] = query.get(name) ?? broker[name];
  broker.url = query.get("mqtt") ?? broker.url;
  if (!broker.url) return null;
  const url = new URL(broker.url);
  url.username = url.password = "";
  return { ...broker, url: url.href };
}

/** Find what to listen to, and listen for ever. */
async function begin() {
  const server = query.get("server") ?? (here.protocol.startsWith("http") ? here.href : null);
  const base = server && new URL(server.endsWith("/") ? server : `${server}/`);
  if (base) while (!(await readConfig(base, heard)) && !query.has("mqtt")) await pause(RETRY_MS);
  const broker = brokerAsked();
  if (broker) await listenToBroker(broker, new URL("static/vendor/mqtt.min.js", here), heard);
  else if (base) await listenToStreamer(base, heard);
  else heard.state("none");
}

function play() {
  queue.playing = true;
}

function stop() {
  queue.playing = false;
}

function next() {
  queue.next();
}

/** Set keys of the config; with a `label`, show a lower third by hand, `text` being its second line. */
function update(data) {
  guarded(() => {
    const { label, text, ...keys } = operatorData(data);
    settings.set(keys);
    if (typeof label === "string" && label !== "") queue.takeByHand(label, typeof text === "string" ? text : "");
  }, heard);
}

debug.say({});
begin().catch((error) => heard.state(error.message));
