// Values as people read them, in the viewer's locale where that is of use.

const percent = new Intl.NumberFormat(undefined, { style: "percent", maximumFractionDigits: 0 });
const wall = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const count = new Intl.NumberFormat();
const numbers = new Map();

/** Media time as minutes and seconds: 93:07. */
export function mediaTime(seconds) {
  const whole = Math.floor(Math.abs(seconds) + 1e-6);
  const text = `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
  return seconds < -1e-6 ? `−${text}` : text;
}

/** A number with so many decimals. */
export function decimal(value, digits = 1) {
  if (!numbers.has(digits)) {
    numbers.set(digits, new Intl.NumberFormat(undefined, { minimumFractionDigits: digits, maximumFractionDigits: digits }));
  }
  return numbers.get(digits).format(value);
}

export const asPercent = (share) => percent.format(share);
export const asCount = (value) => count.format(value);
export const wallTime = (instant) => wall.format(new Date(instant));

/** How long ago, roughly. */
export function ago(seconds) {
  if (seconds < 1.5) return "now";
  if (seconds < 90) return `${Math.round(seconds)} s ago`;
  return `${Math.round(seconds / 60)} min ago`;
}

/** A span of time: 30 s, 2 min, 1 h. */
export function span(seconds) {
  if (seconds < 60) return `${seconds} s`;
  return seconds < 3600 ? `${seconds / 60} min` : `${seconds / 3600} h`;
}

/** An element with text, a class and children. */
export function element(name, { text, className, ...rest } = {}, ...children) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  for (const [key, value] of Object.entries(rest)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** An SVG element with attributes. */
export function drawn(name, attributes = {}) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
