// The state of the editor in this tab: what the server said, the picture that is shown, and the edits in progress.
import { History } from "./history.js";

const KEPT = "diffedit";
export const EMPTY = { settings: {}, limits: { box: null, point: null }, strokes: [] };

function restored() {
  try {
    return JSON.parse(sessionStorage.getItem(KEPT)) || {};
  } catch {
    return {};
  }
}

const before = restored();

export const store = {
  about: null,
  pictures: [],
  results: [],
  jobs: [],
  current: before.current || null, // id of the picture that is shown
  tab: before.tab || crypto.randomUUID(),
  edits: new Map(Object.entries(before.edits || {}).map(([id, edit]) => [id, new History(edit)])),
};

export function picture() {
  return store.pictures.find((one) => one.id === store.current) || null;
}

// Returns the edits of a picture, which begin with the settings of the picture if diffedit made it.
export function editsOf(id) {
  if (!store.edits.has(id)) {
    const opened = store.pictures.find((one) => one.id === id);
    store.edits.set(id, new History({ ...EMPTY, ...fromSettings(opened?.settings || {}) }));
  }
  return store.edits.get(id);
}

// Returns an edit with these settings; a box and a point are no controls of the panel.
export function fromSettings(settings) {
  const { box, point, ...others } = settings;
  const numbers = (text) => (text === undefined ? null : String(text).split(",").map(Number));
  return { settings: others, limits: { box: numbers(box), point: numbers(point) } };
}

export function keep() {
  const edits = Object.fromEntries([...store.edits].map(([id, history]) => [id, history.now]));
  try {
    sessionStorage.setItem(KEPT, JSON.stringify({ current: store.current, tab: store.tab, edits }));
  } catch {
    // too much was drawn to be kept for a reload
  }
}
