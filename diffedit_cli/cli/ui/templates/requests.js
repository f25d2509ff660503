// Requests of the editor: jobs, their command lines, and the masks that were drawn for them.
import { ask, fill, percent, TEXTS } from "./page.js";
import { editsOf, store } from "./store.js";

const T = TEXTS.editor;
let uploaded = { key: null, ids: {} };

function settingsOf(edit) {
  const { box, point } = edit.limits;
  const limits = { ...(box && { box: box.join(",") }), ...(point && { point: point.join(",") }) };
  return { ...edit.settings, ...limits };
}

// Uploads what was drawn, once, and returns the ids by layer.
async function drawn(painter, edit, layers) {
  const key = `${store.current} ${painter.asked} ${JSON.stringify(edit.strokes)}`;
  if (uploaded.key !== key) uploaded = { key, ids: {} };
  for (const layer of layers) {
    if (!painter.isDrawn(layer)) continue;
    uploaded.ids[layer] ||= painter
      .toBlob(layer)
      .then((body) => ask(`/api/masks?picture=${store.current}`, { method: "POST", body }));
  }
  const found = await Promise.all(layers.map((layer) => uploaded.ids[layer]));
  return Object.fromEntries(layers.map((layer, at) => [layer, found[at]?.id ?? null]));
}

async function body(painter, layers) {
  const edit = editsOf(store.current).now;
  return {
    picture: store.current,
    tab: store.tab,
    settings: settingsOf(edit),
    ...(await drawn(painter, edit, layers)),
  };
}

export async function findMask(painter) {
  const json = { kind: "mask", ...(await body(painter, ["within", "exclude"])) };
  return await ask("/api/jobs", { method: "POST", json });
}

export async function paint(painter) {
  const json = { kind: "edit", ...(await body(painter, ["mask", "within", "exclude"])) };
  return await ask("/api/jobs", { method: "POST", json });
}

export async function commands(painter) {
  return await ask("/api/command", { method: "POST", json: await body(painter, ["mask", "within", "exclude"]) });
}

export const stop = (job) => ask(`/api/jobs/${job}/stop`, { method: "POST" });

// Returns what is to be said of a job that has not ended.
export function progressText(job) {
  if (job.status === "waiting" && job.ahead) return fill(T.in_line, job);
  if (job.kind === "mask" && job.stage !== "mask") return T.finding;
  return fill(T[`stage_${job.stage || "load"}`] || T.stage_load, job);
}

// Returns what is to be said of a mask that was found.
export function maskText(mask, isDrawn) {
  const region = T[`region_${mask.region}`] || "";
  const found = fill(T.found, { ...mask, share: percent(mask.area), region });
  return isDrawn ? `${found} · ${T.corrected}` : found;
}

export const doneText = (result) => fill(T.done, { ...result, share: percent(result.area) });
