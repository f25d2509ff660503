// The dialogs of the review: a picture large, before and after, and the correction of its mask.
import { Compare } from "./compare.js";
import { MaskPainter } from "./mask_painter.js";
import { TEXTS, ask, fill, find } from "./page.js";

const T = TEXTS.review;

export class LargeView {
  constructor() {
    this.dialog = find("#large");
    this.dialog.addEventListener("close", () => this.painter?.destroy());
  }

  async open(card) {
    this.dialog.showModal();
    this.painter = null;
    const painted = card.state === "painted";
    find("#large-slider").hidden = !painted;
    find("#large-view").replaceChildren();
    if (painted) {
      const compare = new Compare(find("#large-view"), find("#compare"));
      await compare.load(card.picture, card.result, card.name);
      find("#compare").focus();
    } else {
      this.painter = new MaskPainter(find("#large-view"), { label: card.name });
      await this.painter.load(card.picture, card.mask);
    }
  }
}

export class Correction {
  // `saved` is called with the card that a correction changed.
  constructor(saved) {
    this.saved = saved;
    this.dialog = find("#correct");
    this.painter = new MaskPainter(find("#correct-view"), { onchange: () => this.refresh(), label: T.canvas });
    for (const button of this.dialog.querySelectorAll("[data-tool]:is(button)")) {
      button.addEventListener("click", () => this.choose(button.dataset.tool));
    }
    find("#brush-size").addEventListener("input", (event) => this.painter.setBrushSize(Number(event.target.value)));
    find("#undo").addEventListener("click", () => this.painter.undo());
    find("#redo").addEventListener("click", () => this.painter.redo());
    find("#cancel").addEventListener("click", () => this.dialog.close());
    find("#save").addEventListener("click", () => this.save());
    find("#back").addEventListener("click", () => this.send({ method: "DELETE" }));
    this.dialog.addEventListener("keydown", (event) => this.key(event));
  }

  async open(card) {
    this.card = card;
    find("#correct-title").textContent = fill(T.dialog, card);
    find("#correct-problem").hidden = true;
    find("#back").hidden = !card.corrected;
    this.dialog.showModal();
    await this.painter.load(card.picture, card.mask);
    this.choose("brush");
    this.refresh();
    this.painter.canvas.focus();
  }

  choose(tool) {
    this.painter.setTool(tool);
    for (const button of this.dialog.querySelectorAll("[data-tool]:is(button)")) {
      button.setAttribute("aria-pressed", String(button.dataset.tool === tool));
    }
    find("#brush-size").value = this.painter.brushSize;
  }

  refresh() {
    find("#undo").disabled = !this.painter.canUndo;
    find("#redo").disabled = !this.painter.canRedo;
    find("#save").disabled = !this.painter.isDrawn();
  }

  key(event) {
    if (event.key.toLowerCase() === "z" && (event.ctrlKey || event.metaKey)) {
      if (event.shiftKey) this.painter.redo();
      else this.painter.undo();
      event.preventDefault();
    } else if (event.key === "b") this.choose("brush");
    else if (event.key === "e") this.choose("eraser");
    else if (event.key === "v") this.choose("pan");
    event.stopPropagation();
  }

  async save() {
    await this.send({ method: "POST", body: await this.painter.toBlob() });
  }

  async send(request) {
    try {
      this.saved(await ask(`/api/review/${this.card.id}/mask`, request));
      this.dialog.close();
    } catch (error) {
      find("#correct-problem").textContent = error.message;
      find("#correct-problem").hidden = false;
    }
  }
}
