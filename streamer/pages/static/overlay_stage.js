"use strict";
/* Draws one lower third, moves it in and out. Whatever comes from outside is put in as text, never as markup. */

const LEAVING_MS = 460; // as long as the last of the animations away takes

/** Label → its mark, and whether the mark has colours of its own; other labels have a plain bar. */
const MARKS = {
  Goal: ["ball"],
  "Kick-off": ["ball"],
  Penalty: ["spot"],
  "Yellow card": ["yellow", "own"],
  "Red card": ["red", "own"],
  "Yellow->red card": ["yellow-red", "own"],
  Substitution: ["change", "own"],
  Corner: ["flag"],
  Offside: ["flag"],
  Foul: ["whistle"],
  "Indirect free-kick": ["whistle"],
  "Direct free-kick": ["whistle"],
  "Shots on target": ["target"],
};

class Stage {
  constructor(root, settings) {
    this._root = root;
    this._settings = settings;
    this._element = null;
    this._timer = null;
    this._item = null;
    this.onfree = () => {};
  }

  /** What is on air; null if nothing is. */
  get current() {
    return this._item;
  }

  /** Bring one up; a provisional one stays until its final word, but not beyond the time when it may still come. */
  show(item, now) {
    this._item = { ...item, sinceMs: now };
    this._dress();
    this._element = this._draw(item);
    this._root.replaceChildren(this._element);
    const whole = this._settings.durationMs(item.label);
    this._leaveIn(item.provisional ? Math.max(whole, item.lateMs - now) : whole);
  }

  /** What is on air was provisional and has been confirmed: it stays as long as others, and a while at least. */
  confirm(spot, leastMs) {
    if (!this._item.provisional) return;
    this._item.provisional = false;
    this._element.querySelector(".doubt")?.remove();
    const confidence = this._element.querySelector(".confidence");
    if (confidence !== null) confidence.textContent = this._percent(spot.confidence);
    const rest = this._item.sinceMs + this._settings.durationMs(spot.label) - Date.now();
    this._leaveIn(Math.max(leastMs, rest));
  }

  /** Take away what is on air. */
  leave() {
    if (this._item === null || this._element.classList.contains("leaving")) return;
    this._element.classList.add("leaving");
    this._item.id = null; // nobody can confirm it now
    clearTimeout(this._timer);
    this._timer = setTimeout(() => this._clear(), LEAVING_MS);
  }

  _leaveIn(ms) {
    clearTimeout(this._timer);
    this._timer = setTimeout(() => this.leave(), ms);
  }

  _clear() {
    this._root.replaceChildren();
    this._item = this._element = null;
    this.onfree();
  }

  /** Put the look on; values that CSS would not take are left out. */
  _dress() {
    const { look } = this._settings.config;
    const style = document.documentElement.style;
    for (const name of ["accent", "background", "foreground"])
      if (CSS.supports("color", look[name])) style.setProperty(`--${name}`, look[name]);
    if (CSS.supports("font-family", look.font)) style.setProperty("--font", look.font);
    style.setProperty("--ink", inkOn(look.accent));
    style.setProperty("--scale", look.scale);
    style.setProperty("--bottom", look.bottom_margin);
    this._root.dataset.position = look.position;
  }

  _draw(item) {
    const element = made("div", "lower-third");
    element.dataset.label = item.label;
    element.lang = this._settings.config.language;
    const title = made("div", "title", this._settings.words(item.label));
    if (item.provisional) title.append(made("span", "doubt", "?"));
    const words = made("div", "words");
    words.append(title);
    if (item.detail) {
      words.append(made("div", "detail", item.detail));
      element.classList.add("detailed");
    }
    const face = made("div", "face");
    face.append(words, ...this._facts(item));
    const panel = made("div", "panel");
    panel.append(face);
    element.append(mark(item.label), panel);
    return element;
  }

  /** Return the part with the time and the confidence; nothing if neither is wanted, or known. */
  _facts(item) {
    const { look } = this._settings.config;
    const facts = made("div", "facts");
    if (look.clock && Number.isFinite(item.mediaTime)) facts.append(made("span", "clock", clockText(item.mediaTime)));
    if (look.confidence && Number.isFinite(item.confidence))
      facts.append(made("span", "confidence", this._percent(item.confidence)));
    return facts.childElementCount ? [facts] : [];
  }

  _percent(share) {
    const { language } = this._settings.config;
    try {
      return new Intl.NumberFormat(language, { style: "percent" }).format(share);
    } catch {
      return `${Math.round(share * 100)}%`; // a language of the config's own making
    }
  }
}

function mark(label) {
  const [name, coloured] = own(MARKS, label) ?? [];
  const element = made("div", name ? "mark" : "mark plain");
  if (!name) return element;
  if (coloured) element.classList.add("coloured");
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#mark-${name}`);
  svg.append(use);
  element.append(svg);
  return element;
}

function made(tag, names, text = "") {
  const element = document.createElement(tag);
  element.className = names;
  element.textContent = text;
  return element;
}

function clockText(seconds) {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

/** Return black or white, whichever reads better on a colour (#rgb or #rrggbb; alpha is passed over). */
function inkOn(colour) {
  const hex = colour.slice(1).length < 6 ? [...colour.slice(1, 4)].map((c) => c + c).join("") : colour.slice(1, 7);
  const [r, g, b] = [0, 2, 4].map((i) => (parseInt(hex.slice(i, i + 2), 16) / 255) ** 2.2);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b < 0.22 ? "#ffffff" : "#0b1220";
}
