"use strict";
/* What is shown and how: the config, over it what the page's address asks for, over that what an operator has set. */

const within = (least, most) => (value) => value >= least && value <= most;
const colour = (text) => /^#([0-9a-f]{3,4}|[0-9a-f]{6}|[0-9a-f]{8})$/i.test(text);

/** What a key's value must be, beside its type; as in overlay.py. */
const ALLOWED = {
  labels: (list) => list.length > 0,
  min_confidence: within(0, 1),
  programme_delay_s: within(0, 3600),
  latest_s: within(0, 3600),
  duration_s: within(1, 60),
  durations_s: within(1, 60),
  "look.accent": colour,
  "look.background": colour,
  "look.foreground": colour,
  "look.font": (text) => /^[\p{L}\p{N}_ ,.'"-]+$/u.test(text),
  "look.position": (text) => ["left", "centre", "right"].includes(text),
  "look.bottom_margin": within(0, 80),
  "look.scale": within(0.5, 2),
};

class Settings {
  constructor(config, query) {
    this._query = query;
    this._set = new Map();
    this.use(config);
  }

  /** Take another config. */
  use(config) {
    const labels = this._query.getAll("label");
    const language = this._query.get("language");
    this._config = JSON.parse(JSON.stringify(config));
    if (labels.length) this._config.labels = labels;
    if (language !== null) this._config.language = language;
    for (const [key, value] of this._set) this._put(key, value);
  }

  /** Set keys as an operator may, e.g. {"look.accent": "#ff0000"}; return those that there are. */
  set(flat) {
    const known = Object.keys(flat).filter((key) => this._put(key, flat[key]));
    for (const key of known) this._set.set(key, flat[key]);
    return known;
  }

  get config() {
    return this._config;
  }

  /** How a label is called: in the language asked for, else in English, else as it is. */
  words(label) {
    const { text, language } = this._config;
    return [text[language], text.en].map((table) => own(table, label)).find((words) => words !== undefined) ?? label;
  }

  durationMs(label) {
    return (own(this._config.durations_s, label) ?? this._config.duration_s) * 1000;
  }

  /** How important a label is: 0 the most; -1 if it is not shown. */
  place(label) {
    return this._config.labels.indexOf(label);
  }

  _put(key, value) {
    const [first, second, ...rest] = key.split(".");
    if (first === "text" && rest.length) return this._name(second, rest.join("."), value);
    const allowed = own(ALLOWED, first === "durations_s" ? first : key);
    if (first === "durations_s" && second) return assign(this._config.durations_s, key.slice(12), value, 0, allowed);
    if (second === undefined) return assign(this._config, first, value, own(this._config, first), allowed);
    if (first !== "look" || rest.length) return false;
    return assign(this._config.look, second, value, own(this._config.look, second), allowed);
  }

  _name(language, label, value) {
    if (own(this._config.text, language) === undefined) define(this._config.text, language, {});
    return assign(this._config.text[language], label, value, "");
  }
}

/** Return a key's value if the table has it itself, and did not inherit it. */
function own(table, key) {
  return table !== undefined && Object.prototype.hasOwnProperty.call(table, key) ? table[key] : undefined;
}

function define(table, key, value) {
  Object.defineProperty(table, key, { value, configurable: true, enumerable: true, writable: true });
}

/** Set a key to a value of the same type as an example, made from text if need be; return whether it may be that. */
function assign(table, key, value, like, allowed = () => true) {
  const made = alike(value, like);
  const taken = made !== undefined && allowed(made);
  if (taken) define(table, key, made);
  return taken;
}

function alike(value, like) {
  if (typeof like === "number") return value !== "" && Number.isFinite(Number(value)) ? Number(value) : undefined;
  if (typeof like === "boolean") return { true: true, 1: true, false: false, 0: false }[String(value).toLowerCase()];
  if (typeof like === "string") return typeof value === "object" ? undefined : String(value);
  if (!Array.isArray(like)) return undefined;
  const list = Array.isArray(value) ? value : String(value).split(",");
  return list.map((item) => String(item).trim()).filter((item) => item !== "");
}

/** Return nested keys as one level: {"look": {"scale": 2}} as {"look.scale": 2}. */
function flattened(data, before = "") {
  const flat = {};
  for (const [key, value] of Object.entries(data)) {
    const nested = typeof value === "object" && value !== null && !Array.isArray(value);
    if (nested) Object.assign(flat, flattened(value, `${before}${key}.`));
    else define(flat, before + key, value);
  }
  return flat;
}

/** Return what CasparCG sends: JSON, or XML of templateData with componentData. Throws if it is neither. */
function operatorData(data) {
  if (typeof data !== "string") return flattened(data);
  if (!data.trim().startsWith("<")) return flattened(JSON.parse(data));
  const flat = {};
  for (const component of new DOMParser().parseFromString(data, "text/xml").querySelectorAll("componentData")) {
    const value = component.querySelector("data")?.getAttribute("value");
    if (typeof value === "string") define(flat, component.id, value);
  }
  return flat;
}
