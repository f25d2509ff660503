// A picture with its mask laid over, to be corrected with brush and eraser, or limited by a box or a point.
// Strokes are kept apart from the found mask, so that another one can be put under them. They lie in layers: those of
// `mask` correct it, `within` and `exclude` are regions of their own.
import { Viewport } from "./viewport.js";

export const LAYERS = { mask: [236, 56, 116], within: [22, 152, 222], exclude: [120, 124, 134] };
const STEP = 0.25; // of the brush's size: how far an arrow key moves the cursor
const FAR = 4; // times as far with Shift
const SMALLEST = 2;
const LARGEST = 400;

function canvasOf(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas;
}

export async function imageOf(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  return image;
}

// Returns a canvas whose alpha is the brightness of a mask, in the colour of the tint.
function tinted(image) {
  const canvas = canvasOf(image.naturalWidth, image.naturalHeight);
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.drawImage(image, 0, 0);
  const pixels = pen.getImageData(0, 0, canvas.width, canvas.height);
  for (let at = 0; at < pixels.data.length; at += 4) {
    const bright = pixels.data[at];
    pixels.data.set(LAYERS.mask, at);
    pixels.data[at + 3] = bright;
  }
  pen.putImageData(pixels, 0, 0);
  return canvas;
}

export class MaskPainter {
  constructor(host, { onchange = () => {}, label = "" } = {}) {
    this.host = host;
    this.onchange = onchange;
    this.canvas = document.createElement("canvas");
    this.canvas.className = "mask-canvas";
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "application");
    this.canvas.setAttribute("aria-label", label);
    host.append(this.canvas);
    this.view = new Viewport(this.canvas, () => this.draw());
    this.tool = null;
    this.layer = "mask";
    this.brushSize = 24;
    this.strokes = [];
    this.undone = [];
    this.cursor = null;
    this.limits = { box: null, point: null };
    this.veil = 0.5;
    this.listen();
  }

  async load(pictureUrl, maskUrl) {
    const picture = await imageOf(pictureUrl);
    this.picture = picture;
    this.size = [picture.naturalWidth, picture.naturalHeight];
    this.layers = Object.fromEntries(Object.keys(LAYERS).map((name) => [name, canvasOf(...this.size)]));
    this.rim = canvasOf(...this.size);
    this.found = null;
    this.strokes = [];
    this.undone = [];
    this.cursor = null;
    this.brushSize = Math.max(SMALLEST, Math.round(Math.max(...this.size) / 12));
    this.view.show(...this.size);
    await this.replaceMask(maskUrl);
  }

  // Puts another found mask under the strokes; null for none.
  async replaceMask(url) {
    const asked = (this.asked = url);
    const image = url ? await imageOf(url) : null;
    if (this.asked !== asked || !this.picture) return;
    const fits = image && image.naturalWidth === this.size[0] && image.naturalHeight === this.size[1];
    this.found = fits ? tinted(image) : null;
    this.compose();
  }

  isDrawn(layer = "mask") {
    return this.strokes.some((stroke) => stroke.layer === layer && (layer === "mask" || !stroke.erase));
  }

  get canUndo() {
    return this.strokes.length > 0;
  }

  get canRedo() {
    return this.undone.length > 0;
  }

  undo() {
    if (!this.canUndo) return;
    this.undone = [...this.undone, this.strokes.at(-1)];
    this.setStrokes(this.strokes.slice(0, -1), this.undone);
    this.onchange({ kind: "mask", value: this.strokes });
  }

  redo() {
    if (!this.canRedo) return;
    const again = this.undone.at(-1);
    this.setStrokes([...this.strokes, again], this.undone.slice(0, -1));
    this.onchange({ kind: "mask", value: this.strokes });
  }

  clear() {
    this.setStrokes([]);
    this.onchange({ kind: "mask", value: this.strokes });
  }

  // Strokes are {layer, erase, size, points}; a list of them is never changed, so that it can be kept for undo.
  setStrokes(strokes, undone = []) {
    this.strokes = strokes;
    this.undone = undone;
    if (this.picture) this.compose();
  }

  setLimits(limits) {
    this.limits = { box: limits.box || null, point: limits.point || null };
    this.draw();
  }

  setTool(tool) {
    this.tool = tool;
    this.canvas.dataset.tool = tool || "pan";
    this.corner = null;
    this.draw();
  }

  setBrushSize(size) {
    this.brushSize = Math.min(LARGEST, Math.max(SMALLEST, size));
    this.draw();
  }

  zoom(factor) {
    this.view.zoom(factor);
  }

  fit() {
    this.view.fit();
  }

  // Returns a layer as a PNG: white where an edit repaints, or what was drawn, black elsewhere.
  async toBlob(layer = "mask") {
    const flat = canvasOf(...this.size);
    const pen = flat.getContext("2d");
    pen.drawImage(this.layers[layer], 0, 0);
    pen.globalCompositeOperation = "source-in";
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, ...this.size);
    pen.globalCompositeOperation = "destination-over";
    pen.fillStyle = "#000";
    pen.fillRect(0, 0, ...this.size);
    return await new Promise((done) => flat.toBlob(done, "image/png"));
  }

  destroy() {
    this.view.destroy();
    this.canvas.remove();
  }

  // Drawing

  compose() {
    for (const canvas of Object.values(this.layers)) canvas.getContext("2d").clearRect(0, 0, ...this.size);
    if (this.found) this.layers.mask.getContext("2d").drawImage(this.found, 0, 0);
    for (const stroke of this.strokes) this.lay(stroke, stroke.points);
    this.outlineMask();
    this.draw();
  }

  // Draws a light rim around the mask, which shows on a picture of the veil's own colour.
  outlineMask() {
    const [pen, wide] = [this.rim.getContext("2d"), Math.max(1, Math.max(...this.size) / 250)];
    pen.clearRect(0, 0, ...this.size);
    for (let turn = 0; turn < 8; turn += 1) {
      const angle = (turn * Math.PI) / 4;
      pen.drawImage(this.layers.mask, wide * Math.cos(angle), wide * Math.sin(angle));
    }
    pen.globalCompositeOperation = "source-in";
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, ...this.size);
    pen.globalCompositeOperation = "destination-out";
    pen.drawImage(this.layers.mask, 0, 0);
    pen.globalCompositeOperation = "source-over";
  }

  lay({ layer, erase, size }, points) {
    const pen = this.layers[layer].getContext("2d");
    pen.save();
    pen.globalCompositeOperation = erase ? "destination-out" : "source-over";
    pen.strokeStyle = `rgb(${LAYERS[layer].join(" ")})`;
    pen.lineWidth = size;
    pen.lineCap = pen.lineJoin = "round";
    pen.beginPath();
    pen.moveTo(...points[0]);
    for (const point of points) pen.lineTo(...point);
    pen.stroke();
    pen.restore();
  }

  draw() {
    if (!this.picture) return;
    const pen = this.view.begin();
    pen.drawImage(this.picture, 0, 0);
    pen.globalAlpha = this.veil;
    for (const canvas of Object.values(this.layers)) pen.drawImage(canvas, 0, 0);
    pen.globalAlpha = 0.9;
    pen.drawImage(this.rim, 0, 0);
    pen.globalAlpha = 1;
    const { box, point } = this.limits;
    if (box) this.outline(pen, box);
    if (point) this.cross(pen, point);
    if (this.corner && this.cursor) this.outline(pen, this.boxTo(this.cursor));
    if (this.cursor && this.tool && this.tool !== "pan") this.ring(pen);
    this.view.end();
  }

  outline(pen, [left, top, width, height]) {
    const thin = 1.5 / this.view.scale;
    for (const [colour, dash] of [["#000", []], ["#fff", [6 * thin, 6 * thin]]]) {
      pen.strokeStyle = colour;
      pen.lineWidth = thin;
      pen.setLineDash(dash);
      pen.strokeRect(left, top, width, height);
    }
    pen.setLineDash([]);
  }

  cross(pen, [x, y]) {
    const reach = 9 / this.view.scale;
    for (const [colour, width] of [["#000", 4], ["#fff", 2]]) {
      pen.strokeStyle = colour;
      pen.lineWidth = width / this.view.scale;
      pen.beginPath();
      pen.moveTo(x - reach, y);
      pen.lineTo(x + reach, y);
      pen.moveTo(x, y - reach);
      pen.lineTo(x, y + reach);
      pen.stroke();
    }
  }

  ring(pen) {
    const brush = this.tool === "brush" || this.tool === "eraser";
    const radius = brush ? this.brushSize / 2 : 5 / this.view.scale;
    for (const [colour, width] of [["#000", 3], ["#fff", 1.5]]) {
      pen.strokeStyle = colour;
      pen.lineWidth = width / this.view.scale;
      pen.beginPath();
      pen.arc(...this.cursor, radius, 0, 7);
      pen.stroke();
    }
  }

  // Pointer and keyboard

  listen() {
    this.canvas.addEventListener("pointerdown", (event) => this.press(event));
    this.canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel"]) this.canvas.addEventListener(end, () => this.release());
    this.canvas.addEventListener("pointerleave", () => {
      if (!this.stroke) this.cursor = null;
      this.draw();
    });
    this.canvas.addEventListener("keydown", (event) => this.key(event));
  }

  press(event) {
    if (!this.picture || event.button !== 0 || !event.isPrimary) return;
    const at = this.view.inside(event);
    this.cursor = at;
    if (this.tool === "brush" || this.tool === "eraser") this.begin(at);
    else if (this.tool === "box") this.corner = at;
    else if (this.tool === "point") this.choose("point", at.map(Math.round));
    else return;
    this.canvas.setPointerCapture(event.pointerId);
    event.preventDefault();
    this.canvas.focus({ preventScroll: true });
  }

  move(event) {
    if (!this.picture) return;
    this.cursor = this.view.inside(event);
    if (this.stroke && event.isPrimary) this.extend(this.cursor);
    this.draw();
  }

  release() {
    if (this.stroke) this.finish();
    if (this.corner && this.cursor) this.choose("box", this.boxTo(this.cursor));
    this.corner = null;
  }

  begin(at) {
    this.stroke = { layer: this.layer, erase: this.tool === "eraser", size: this.brushSize, points: [at] };
    this.extend(at);
  }

  extend(at) {
    const from = this.stroke.points.at(-1);
    this.stroke.points.push(at);
    this.lay(this.stroke, [from, at]);
  }

  finish() {
    this.setStrokes([...this.strokes, this.stroke]);
    this.stroke = null;
    this.onchange({ kind: "mask", value: this.strokes });
  }

  boxTo([x, y]) {
    const [left, right] = [this.corner[0], x].sort((a, b) => a - b);
    const [top, bottom] = [this.corner[1], y].sort((a, b) => a - b);
    const clip = (value, most) => Math.round(Math.min(most, Math.max(0, value)));
    const [l, t] = [clip(left, this.size[0] - 1), clip(top, this.size[1] - 1)];
    return [l, t, Math.max(1, clip(right, this.size[0]) - l), Math.max(1, clip(bottom, this.size[1]) - t)];
  }

  choose(kind, value) {
    const most = kind === "point" ? value.map((one, at) => Math.min(this.size[at] - 1, Math.max(0, one))) : value;
    this.setLimits({ ...this.limits, [kind]: most });
    this.onchange({ kind, value: most });
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.picture) return;
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const way = ways[event.key];
    if (way && this.tool && this.tool !== "pan") this.step(way, event.shiftKey ? FAR : 1);
    else if (way) this.view.pan(way[0] * -40, way[1] * -40);
    else if (event.key === " " || event.key === "Enter") this.dab();
    else if (event.key === "[") this.setBrushSize(this.brushSize / 1.25);
    else if (event.key === "]") this.setBrushSize(this.brushSize * 1.25);
    else return;
    event.preventDefault();
  }

  step(way, times) {
    const [x, y] = this.cursor || this.size.map((one) => one / 2);
    const by = Math.max(1, this.brushSize * STEP) * times;
    const clip = (value, most) => Math.min(most, Math.max(0, value));
    this.cursor = [clip(x + way[0] * by, this.size[0]), clip(y + way[1] * by, this.size[1])];
    this.draw();
  }

  dab() {
    this.cursor ||= this.size.map((one) => one / 2);
    if (this.tool === "brush" || this.tool === "eraser") {
      this.begin(this.cursor);
      this.finish();
    } else if (this.tool === "point") this.choose("point", this.cursor.map(Math.round));
    else if (this.tool === "box" && this.corner) this.release();
    else if (this.tool === "box") this.corner = this.cursor;
    this.draw();
  }
}
