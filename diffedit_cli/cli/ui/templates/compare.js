// Before and after under a slider, at full resolution, to be zoomed and moved.
import { imageOf } from "./mask_painter.js";
import { Viewport } from "./viewport.js";

const COARSE = 96; // pixels of a side, at which two pictures are compared
const CHANGED = 40; // of 765: a smaller difference is none

function coarse(image) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = COARSE;
  const pen = canvas.getContext("2d");
  pen.drawImage(image, 0, 0, COARSE, COARSE);
  return pen.getImageData(0, 0, COARSE, COARSE).data;
}

// Returns the slider's position, in percent of the width, that has half of what changed on its left.
function middleOfChange(before, after) {
  const [one, other] = [coarse(before), coarse(after)];
  const columns = new Array(COARSE).fill(0);
  for (let at = 0; at < one.length; at += 4) {
    const apart = [0, 1, 2].reduce((sum, band) => sum + Math.abs(one[at + band] - other[at + band]), 0);
    if (apart > CHANGED) columns[(at / 4) % COARSE] += 1;
  }
  const half = columns.reduce((sum, count) => sum + count, 0) / 2;
  let left = 0;
  const middle = columns.findIndex((count) => (left += count) >= half && half > 0);
  return middle < 0 ? 50 : (100 * (middle + 0.5)) / COARSE;
}

export class Compare {
  constructor(host, slider) {
    this.canvas = document.createElement("canvas");
    this.canvas.className = "compare-canvas";
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "img");
    host.append(this.canvas);
    this.slider = slider;
    this.view = new Viewport(this.canvas, () => this.draw());
    slider.addEventListener("input", () => this.draw());
    this.canvas.addEventListener("keydown", (event) => this.key(event));
  }

  async load(before, after, label) {
    const asked = (this.asked = `${before} ${after}`);
    const images = await Promise.all([imageOf(before), imageOf(after)]);
    if (this.asked !== asked) return;
    [this.before, this.after] = images;
    this.canvas.setAttribute("aria-label", label);
    this.slider.value = middleOfChange(this.before, this.after);
    this.view.show(this.after.naturalWidth, this.after.naturalHeight);
  }

  zoom(factor) {
    this.view.zoom(factor);
  }

  fit() {
    this.view.fit();
  }

  draw() {
    if (!this.after) return;
    const [width, height] = [this.after.naturalWidth, this.after.naturalHeight];
    const cut = (width * Number(this.slider.value)) / 100;
    const pen = this.view.begin();
    for (const [image, left, right] of [[this.before, 0, cut], [this.after, cut, width]]) {
      pen.save();
      pen.beginPath();
      pen.rect(left, 0, right - left, height);
      pen.clip();
      pen.drawImage(image, 0, 0, width, height);
      pen.restore();
    }
    for (const [colour, wide] of [["rgb(0 0 0 / 45%)", 3], ["#fff", 1.5]]) {
      pen.fillStyle = colour;
      pen.fillRect(cut - wide / 2 / this.view.scale, 0, wide / this.view.scale, height);
    }
    this.view.end();
  }

  key(event) {
    const ways = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] };
    const way = ways[event.key];
    if (!way || event.ctrlKey || event.metaKey || event.altKey) return;
    this.view.pan(...way);
    event.preventDefault();
  }
}
