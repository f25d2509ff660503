// What both pages share: texts, requests, events, small helpers for elements.
export const TEXTS = JSON.parse(document.getElementById("texts").textContent);

// Returns a text with its {placeholders} filled in.
export function fill(text, values = {}) {
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
}

export const find = (selector) => document.querySelector(selector);

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export class Refused extends Error {}

// Asks the page's server; a refusal is an error with its sentence.
export async function ask(path, { method = "GET", json, body } = {}) {
  let answer;
  try {
    answer = await fetch(path, {
      method,
      credentials: "same-origin",
      headers: json === undefined ? {} : { "Content-Type": "application/json" },
      body: json === undefined ? body : JSON.stringify(json),
    });
  } catch {
    throw new Refused(TEXTS.shared.gone);
  }
  const text = await answer.text();
  if (answer.ok) return text ? JSON.parse(text) : null;
  try {
    throw new Refused(JSON.parse(text).message);
  } catch (error) {
    throw error instanceof Refused ? error : new Refused(text.slice(0, 300) || TEXTS.shared.gone);
  }
}

// Calls `take` with the data of each event of these names, and `here` with whether the server answers.
export function listen(names, take, here) {
  const source = new EventSource("/api/events");
  source.addEventListener("open", () => here(true));
  source.addEventListener("error", () => here(false));
  for (const name of names) source.addEventListener(name, (event) => take(name, JSON.parse(event.data)));
}

// Returns a function that calls `work` with the latest arguments once it was not called for `pause` milliseconds.
export function later(pause, work) {
  let timer;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...given), pause);
  };
}

export async function copy(text, button, done) {
  await navigator.clipboard.writeText(text);
  const before = button.textContent;
  button.textContent = done;
  setTimeout(() => (button.textContent = before), 1600);
}

export const percent = (share) => (share === null || share === undefined ? "" : (100 * share).toFixed(1));
