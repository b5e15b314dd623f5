"use strict";
/* Where words come from: the streamer's own events, or a broker. Both are tried for ever, and neither says anything.

   `heard` takes them: spot(data), clock(atUtc), config(data), state(text). */

const RETRY_MS = 2000;
const ANSWER_MS = 5000;
const SILENT_MS = 30_000; // the streamer says something every few seconds

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

/** Listen to a streamer.
 *  @param base its address, with a slash at the end */
async function listenToStreamer(base, heard) {
  for (;;) {
    if (await readConfig(base, heard)) await follow(base, heard);
    heard.state(`nothing from ${base}`);
    await pause(RETRY_MS);
  }
}

async function readConfig(base, heard) {
  const limit = new AbortController();
  const timer = setTimeout(() => limit.abort(), ANSWER_MS);
  try {
    const response = await fetch(new URL("overlay.json", base), { signal: limit.signal });
    if (response.ok) heard.config(await response.json());
    return response.ok;
  } catch {
    return false;
  } finally {
    clearTimeout(timer);
  }
}

/** Follow a streamer's events; the browser finds it again by itself, unless it was answered with an error. */
function follow(base, heard) {
  return new Promise((over) => {
    const events = new EventSource(new URL("events?from=now", base));
    let opened = false;
    let last = "";
    let watch = null;
    const close = () => {
      clearTimeout(watch);
      events.close();
      over();
    };
    const alive = () => {
      clearTimeout(watch);
      watch = setTimeout(close, SILENT_MS);
    };
    const on = (kind, take) =>
      events.addEventListener(kind, (event) => {
        alive();
        const fresh = event.lastEventId !== last; // what is only retained has no id
        last = event.lastEventId;
        guarded(() => take(JSON.parse(event.data), fresh), heard);
      });
    on("spot", (spot) => heard.spot(spot));
    for (const kind of ["clock", "stats"]) on(kind, (message, fresh) => fresh && heard.clock(message.at_utc));
    on("status", () => {});
    events.onopen = () => {
      heard.state(`listening to ${base}`);
      if (opened) readConfig(base, heard); // it has come back, and may have been told otherwise
      opened = true;
      alive();
    };
    events.onerror = () => (events.readyState === EventSource.CLOSED ? close() : heard.state(`looking for ${base}`));
    alive();
  });
}

/** Listen to a broker.
 *  @param broker url, stream, prefix, user and password, as in the config
 *  @param library where mqtt.js is */
async function listenToBroker(broker, library, heard) {
  while (typeof mqtt === "undefined") {
    if (!(await loaded(library))) await pause(RETRY_MS);
  }
  const level = (name) => name.trim().replace(/[+#/\u0000-\u001f\u007f-\u009f\ufffe\uffff]/g, "-");
  const base = [...broker.prefix.split("/"), broker.stream].filter((name) => name.trim()).map(level).join("/");
  const topics = { [`${base}/spots`]: "spot", [`${base}/spots/provisional`]: "spot" };
  Object.assign(topics, { [`${base}/clock`]: "clock", [`${base}/stats`]: "clock" });
  const client = mqtt.connect(broker.url, {
    username: broker.user || undefined,
    password: broker.password || undefined,
    protocolVersion: 4, // every broker speaks it
    keepalive: 15,
    connectTimeout: ANSWER_MS,
    reconnectPeriod: RETRY_MS,
    reconnectOnConnackError: true,
    timerVariant: "native", // its other one needs a worker, which the page's policy does not allow
  });
  let why = "";
  client.on("connect", () => {
    why = "";
    heard.state(`listening to ${broker.url} ${base}`);
    client.subscribe(Object.keys(topics), { qos: 1 });
  });
  client.on("error", (error) => (why = `: ${error.message}`));
  client.on("close", () => heard.state(`looking for ${broker.url}${why}`));
  client.on("message", (topic, payload, packet) => {
    if (packet.retain) return; // old, whatever it is
    guarded(() => {
      const { data } = JSON.parse(new TextDecoder().decode(payload));
      if (topics[topic] === "spot") heard.spot(data);
      else heard.clock(data.at_utc);
    }, heard);
  });
}

function loaded(address) {
  return new Promise((done) => {
    const script = document.createElement("script");
    script.src = address;
    script.onload = () => done(true);
    script.onerror = () => done(false);
    document.head.append(script);
  });
}

/** Do something with a message; one that is not as it should be is passed over. */
function guarded(act, heard) {
  try {
    act();
  } catch (error) {
    heard.state(`passed over: ${error.message}`);
  }
}
