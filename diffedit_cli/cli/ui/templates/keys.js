// The editor's keys, as its help lists them.
import { find } from "./page.js";

const TOOLS = { v: "pan", b: "brush", e: "eraser", x: "box", p: "point" };
const ZOOMS = { "+": "1.25", "=": "1.25", "-": "0.8", 0: "fit" };
const VIEWS = { 1: "mask", 2: "result" };

const isTyping = (target) => target.matches("input:not([type=range]):not([type=checkbox]), select, textarea");

export function listenToKeys(editor) {
  document.addEventListener("keydown", (event) => {
    if (find("#help").open) return;
    const withControl = event.ctrlKey || event.metaKey;
    if (withControl ? controlled(editor, event) : !isTyping(event.target) && plain(editor, event)) {
      event.preventDefault();
    } else if (event.key === "Escape") editor.stop();
  });
}

function controlled(editor, event) {
  const key = event.key.toLowerCase();
  if (key === "enter") editor.paint();
  else if (isTyping(event.target)) return false;
  else if (key === "z") editor.travel(event.shiftKey ? "redo" : "undo");
  else if (key === "y") editor.travel("redo");
  else return false;
  return true;
}

function plain(editor, event) {
  if (event.altKey) return false;
  if (event.key === "?") find("#help").showModal();
  else if (event.key in TOOLS) editor.tools.choose(TOOLS[event.key]);
  else if (event.key in ZOOMS) editor.zoom(ZOOMS[event.key]);
  else if (event.key in VIEWS) editor.show(VIEWS[event.key]);
  else return false;
  return true;
}
