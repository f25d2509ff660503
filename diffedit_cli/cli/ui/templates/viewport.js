// A canvas that shows something of a given size, to be zoomed and moved: with the wheel, by dragging, with two fingers.
const CLOSEST = 16; // screen pixels of one of the picture's, at most

export class Viewport {
  constructor(canvas, draw) {
    this.canvas = canvas;
    this.draw = draw;
    this.size = null;
    this.fingers = new Map();
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(canvas.parentElement);
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("pointerdown", (event) => this.touch(event));
    canvas.addEventListener("pointermove", (event) => this.drag(event));
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, (event) => this.fingers.delete(event.pointerId));
    }
  }

  destroy() {
    this.observer.disconnect();
  }

  show(width, height) {
    const same = this.size && this.size[0] === width && this.size[1] === height;
    this.size = [width, height];
    if (!same) this.fitting = true;
    this.resize();
  }

  resize() {
    const { clientWidth, clientHeight } = this.canvas.parentElement;
    this.dense = window.devicePixelRatio || 1;
    this.canvas.width = Math.max(1, Math.round(clientWidth * this.dense));
    this.canvas.height = Math.max(1, Math.round(clientHeight * this.dense));
    if (!this.size) return;
    if (this.fitting || !this.scale) this.fit();
    else this.draw();
  }

  get whole() {
    return Math.min(this.canvas.width / this.dense / this.size[0], this.canvas.height / this.dense / this.size[1]);
  }

  fit() {
    if (!this.size) return;
    this.fitting = true;
    this.scale = this.whole;
    this.left = (this.canvas.width / this.dense - this.size[0] * this.scale) / 2;
    this.top = (this.canvas.height / this.dense - this.size[1] * this.scale) / 2;
    this.draw();
  }

  // Zooms around a point of the canvas, its middle by default.
  zoom(factor, at = [this.canvas.width / this.dense / 2, this.canvas.height / this.dense / 2]) {
    if (!this.size) return;
    const scale = Math.min(CLOSEST, Math.max(this.whole, this.scale * factor));
    if (scale === this.whole) {
      this.fit();
      return;
    }
    this.left = at[0] - ((at[0] - this.left) * scale) / this.scale;
    this.top = at[1] - ((at[1] - this.top) * scale) / this.scale;
    this.scale = scale;
    this.fitting = false;
    this.pan(0, 0);
  }

  pan(right, down) {
    if (!this.size) return;
    const clip = (value, room, length) =>
      length <= room ? (room - length) / 2 : Math.min(0, Math.max(room - length, value));
    this.left = clip(this.left + right, this.canvas.width / this.dense, this.size[0] * this.scale);
    this.top = clip(this.top + down, this.canvas.height / this.dense, this.size[1] * this.scale);
    this.draw();
  }

  // Returns where a pointer is, in the picture's pixels.
  inside(event) {
    const frame = this.canvas.getBoundingClientRect();
    return [
      (event.clientX - frame.left - this.left) / this.scale,
      (event.clientY - frame.top - this.top) / this.scale,
    ];
  }

  // Returns a context in which the picture's pixels are units; `end` must follow.
  begin() {
    const pen = this.canvas.getContext("2d");
    pen.save();
    pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
    const scale = this.scale * this.dense;
    pen.setTransform(scale, 0, 0, scale, this.left * this.dense, this.top * this.dense);
    pen.imageSmoothingEnabled = this.scale < 3;
    pen.imageSmoothingQuality = "high";
    return pen;
  }

  end() {
    this.canvas.getContext("2d").restore();
  }

  wheel(event) {
    if (!this.size) return;
    event.preventDefault();
    const frame = this.canvas.getBoundingClientRect();
    this.zoom(Math.exp(-event.deltaY / 400), [event.clientX - frame.left, event.clientY - frame.top]);
  }

  touch(event) {
    this.fingers.set(event.pointerId, event);
    const moves = !this.canvas.dataset.tool || this.canvas.dataset.tool === "pan";
    if (moves || event.button === 1) this.canvas.setPointerCapture(event.pointerId);
  }

  drag(event) {
    const before = this.fingers.get(event.pointerId);
    if (!before || !this.size) return;
    this.fingers.set(event.pointerId, event);
    const moves = !this.canvas.dataset.tool || this.canvas.dataset.tool === "pan" || (event.buttons & 4) !== 0;
    if (this.fingers.size === 1 && moves) {
      this.pan(event.clientX - before.clientX, event.clientY - before.clientY);
    } else if (this.fingers.size === 2) this.pinch(event, before);
  }

  pinch(event, before) {
    const other = [...this.fingers.values()].find((one) => one.pointerId !== event.pointerId);
    const apart = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
    const frame = this.canvas.getBoundingClientRect();
    const middle = [(event.clientX + other.clientX) / 2 - frame.left, (event.clientY + other.clientY) / 2 - frame.top];
    this.zoom(apart(event) / Math.max(1, apart(before)), middle);
    this.pan((event.clientX - before.clientX) / 2, (event.clientY - before.clientY) / 2);
  }
}
