// The tools below the picture: brush and eraser with their size and layer, box, point, clear.
import { find } from "./page.js";

const DRAWING = ["brush", "eraser"];

export class Tools {
  constructor(painter, clear) {
    this.painter = painter;
    this.buttons = [...document.querySelectorAll("[data-tool]")].filter((one) => one.matches("button"));
    for (const button of this.buttons) button.addEventListener("click", () => this.choose(button.dataset.tool));
    find("#brush-size").addEventListener("input", (event) => painter.setBrushSize(Number(event.target.value)));
    find("#layer").addEventListener("change", (event) => (painter.layer = event.target.value));
    find("#clear").addEventListener("click", clear);
    painter.canvas.addEventListener("keyup", () => (find("#brush-size").value = painter.brushSize));
    painter.setTool("pan");
  }

  choose(tool) {
    this.painter.setTool(tool);
    for (const button of this.buttons) button.setAttribute("aria-pressed", String(button.dataset.tool === tool));
    for (const label of document.querySelectorAll(".drawing")) label.hidden = !DRAWING.includes(tool);
    find("#brush-size").value = this.painter.brushSize;
    if (tool !== "pan") this.painter.canvas.focus({ preventScroll: true });
  }
}
