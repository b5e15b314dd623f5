// The stream of events, through every fault of its server: lost, it is opened again, for ever.

const KINDS = ["hello", "past", "present", "missed", "beat", "spot", "scores", "status", "clock", "stats", "clip"];
const SILENT_MS = 25_000; // the server says something every ten seconds
const AGAIN_MS = 2_000;

/**
 * Hear what the server says.
 * @param {(kind: string, data: object) => void} heard is told every event.
 * @param {(up: boolean) => void} changed is told when the connection is there, and when it is lost.
 */
export function connect(heard, changed) {
  let source, timer, up;

  const show = (now) => {
    if (now !== up) changed((up = now));
  };
  const expect = () => {
    clearTimeout(timer);
    timer = setTimeout(lost, SILENT_MS);
  };
  const again = (wait) => {
    source.close();
    clearTimeout(timer);
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
  open();
}
