// The stream of events, through every fault of its server: lost, it is opened again, for ever.
//
// A browser opens six connections to a server, for all its tabs together: one that nobody sees gives its own back.

const KINDS = ["hello", "past", "present", "missed", "beat", "spot", "scores", "status", "clock", "stats", "clip"];
const SILENT_MS = 25_000; // the server says something every ten seconds
const AGAIN_MS = 2_000;
const HIDDEN_MS = 10_000; // until a page that nobody sees lets go

/**
 * Hear what the server says.
 * @param {(kind: string, data: object) => void} heard is told every event.
 * @param {(up: boolean) => void} changed is told when the connection is there, and when it is lost.
 */
export function connect(heard, changed) {
  let source, timer, leaving, up;

  const show = (now) => {
    if (now !== up) changed((up = now));
  };
  const expect = () => {
    clearTimeout(timer);
    timer = setTimeout(lost, SILENT_MS);
  };
  const close = () => {
    source?.close();
    source = null;
    clearTimeout(timer);
  };
  const again = (wait) => {
    close();
    timer = setTimeout(open, wait);
  };
  const lost = () => {
    show(false);
    again(0);
  };
  const open = () => {
    source = new EventSource("/events?from=start");
    expect();
    source.onerror = () => {
      show(false);
      if (source.readyState === EventSource.CLOSED) again(AGAIN_MS);
      else expect();
    };
    for (const kind of KINDS) {
      source.addEventListener(kind, (event) => {
        expect();
        show(true);
        if (kind === "missed") again(0); // all of it once more: what is known already is passed over
        else heard(kind, JSON.parse(event.data));
      });
    }
  };
  const look = () => {
    clearTimeout(leaving);
    if (document.hidden) leaving = setTimeout(close, HIDDEN_MS);
    else if (!source) again(0); // all of it once more
  };
  document.addEventListener("visibilitychange", look);
  open();
  look();
}
