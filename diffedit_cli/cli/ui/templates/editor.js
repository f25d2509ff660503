// The editor: connects the controls, the picture with its mask, the jobs and the results.
import { Controls } from "./controls.js";
import { listenToKeys } from "./keys.js";
import { MaskPainter } from "./mask_painter.js";
import { TEXTS, ask, copy, fill, find, later, listen } from "./page.js";
import { Pictures } from "./pictures.js";
import * as requests from "./requests.js";
import { Results } from "./results.js";
import { editsOf, fromSettings, keep, picture, store } from "./store.js";
import { Tools } from "./tools.js";

const T = TEXTS.editor;
const TYPING = 450; // milliseconds without a key before the mask is asked for
const MOVING = 60; // the same for sliders

class Editor {
  constructor() {
    this.painter = new MaskPainter(find("#mask-view"), { onchange: (what) => this.drawn(what), label: T.canvas });
    this.controls = new Controls((name, value) => this.set(name, value));
    this.tools = new Tools(this.painter, () => this.clearDrawn());
    this.pictures = new Pictures((id) => this.open(id), (text) => this.fail(text));
    this.results = new Results((result) => this.choose(result), (result, output) => this.further(result, output));
    this.maskJob = this.paintJob = this.asked = null;
    this.askSoon = later(MOVING, () => this.askForMask());
    this.askLater = later(TYPING, () => this.askForMask());
    this.commandSoon = later(150, () => this.showCommand());
    this.listen();
    this.show("mask");
  }

  listen() {
    find("#panel").addEventListener("submit", (event) => {
      event.preventDefault();
      this.paint();
    });
    find("#stop").addEventListener("click", () => this.stop());
    find("#undo").addEventListener("click", () => this.travel("undo"));
    find("#redo").addEventListener("click", () => this.travel("redo"));
    find("#show-mask").addEventListener("click", () => this.show("mask"));
    find("#show-result").addEventListener("click", () => this.show("result"));
    find("#paint-anyway").addEventListener("click", () => this.paintAnyway());
    find("#copy").addEventListener("click", (event) =>
      copy(find("#command").textContent, event.target, TEXTS.shared.copied),
    );
    find("#help-button").addEventListener("click", () => find("#help").showModal());
    for (const button of document.querySelectorAll("[data-zoom]")) {
      button.addEventListener("click", () => this.zoom(button.dataset.zoom));
    }
    listenToKeys(this);
  }

  // Pictures

  async open(id) {
    store.current = id;
    keep();
    this.pictures.draw();
    find("#editor").dataset.state = id ? "open" : "empty";
    this.maskJob = this.asked = this.mask = null;
    this.say(T.needs_prompts);
    this.results.shown = null;
    this.show("mask");
    if (!id) return;
    const opened = picture();
    await this.painter.load(opened.url, null);
    find("#made-by").hidden = opened.settings?.from !== this.history.now.settings.from || !opened.settings;
    find("#made-by").textContent = fill(T.made_by, opened);
    this.refresh();
    this.askForMask();
  }

  async further(result, output) {
    try {
      await this.pictures.openResult(result, output);
    } catch (error) {
      this.fail(error.message);
    }
  }

  // The edit of the picture that is shown

  get history() {
    return editsOf(store.current);
  }

  change(next, what) {
    if (!store.current) return;
    this.history.change({ ...this.history.now, ...next }, what);
    this.refresh();
  }

  set(name, value) {
    if (!store.current) return;
    const { [name]: _, ...others } = this.history.now.settings;
    this.change({ settings: value === undefined ? others : { ...others, [name]: value } }, name);
    const typed = find(`[data-setting="${name}"]`)?.type === "text";
    (typed ? this.askLater : this.askSoon)();
  }

  drawn({ kind, value }) {
    if (kind === "mask") this.change({ strokes: value }, null);
    else this.change({ limits: { ...this.history.now.limits, [kind]: value } }, null);
    this.askSoon();
    if (this.mask) this.say(requests.maskText(this.mask, this.painter.isDrawn()));
  }

  clearDrawn() {
    this.change({ strokes: [], limits: { box: null, point: null } }, null);
    this.askSoon();
  }

  travel(way) {
    if (!store.current) return;
    this.history[way]();
    this.refresh();
    this.askSoon();
  }

  // Shows the present edit.
  refresh() {
    const { settings, limits, strokes } = this.history.now;
    this.controls.show(settings);
    this.painter.setLimits(limits);
    if (this.painter.strokes !== strokes) this.painter.setStrokes(strokes);
    find("#undo").disabled = !this.history.past.length;
    find("#redo").disabled = !this.history.future.length;
    find("#clear").disabled = !(strokes.length || limits.box || limits.point);
    find("#paint").disabled = !this.isComplete || Boolean(this.paintJob);
    keep();
    this.commandSoon();
  }

  get isComplete() {
    const { settings } = this.history.now;
    return Boolean(store.current && settings.to && (settings.from || this.painter.isDrawn() || settings.segment));
  }

  // The mask

  async askForMask() {
    if (!store.current) return;
    const { settings, limits, strokes } = this.history.now;
    if (!settings.from || !settings.to) return;
    const regions = strokes.filter((stroke) => stroke.layer !== "mask");
    const wanted = JSON.stringify([store.current, settings, limits, regions]);
    if (wanted === this.asked) return;
    this.asked = wanted;
    this.problem(null);
    try {
      const job = await requests.findMask(this.painter);
      if (this.asked !== wanted) return;
      this.maskJob = job.id;
      this.take(store.jobs.some((one) => one.id === job.id) ? store.jobs : [job]);
    } catch (error) {
      this.fail(error.message);
    }
  }

  async takeMask(job) {
    this.maskJob = null;
    if (job.status === "failed") {
      this.mask = null;
      await this.painter.replaceMask(null);
      this.fail(job.error.message, job.error.code === 5);
      this.say("");
      return;
    }
    if (job.status !== "done") return;
    this.mask = job.mask;
    await this.painter.replaceMask(job.mask.url);
    this.say(requests.maskText(job.mask, this.painter.isDrawn()));
    this.problem(job.mask.warnings.join(" ") || null, { mild: true });
    this.commandSoon();
  }

  // Painting

  async paint() {
    if (!this.isComplete || this.paintJob) return;
    this.problem(null);
    try {
      const job = await requests.paint(this.painter);
      this.paintJob = job.id;
      this.take([...store.jobs.filter((one) => one.id !== job.id), job]);
    } catch (error) {
      this.fail(error.message);
    }
  }

  paintAnyway() {
    this.set("anyway", true);
    this.paint();
  }

  async stop() {
    if (!this.paintJob) return;
    try {
      await requests.stop(this.paintJob);
    } catch (error) {
      this.fail(error.message);
    }
  }

  takePainted(job) {
    this.paintJob = null;
    if (job.status === "stopped") this.say(T.stopped);
    if (job.status === "failed") {
      this.say("");
      this.fail(job.error.message, job.error.code === 5);
    }
    if (job.status !== "done") return;
    if (!store.results.some((one) => one.id === job.result.id)) store.results = [...store.results, job.result];
    if (job.result.picture === store.current) this.choose(job.result, false);
    else this.results.draw();
    this.say(requests.doneText(job.result));
    this.problem(job.result.warnings.join(" ") || null, { mild: true });
  }

  // Shows a result; its settings too, if a person chose it.
  choose(result, restore = true) {
    const known = store.pictures.some((one) => one.id === result.picture);
    if (restore && known && result.picture !== store.current) {
      this.open(result.picture).then(() => this.choose(result));
      return;
    }
    if (restore && known) this.change(fromSettings(result.settings), null);
    this.results.show(result);
    this.show("result");
  }

  // Jobs, as the server tells of them

  take(jobs) {
    store.jobs = jobs;
    const mine = (id) => (id ? jobs.find((job) => job.id === id) : undefined);
    this.paintJob ||= jobs.find((job) => job.kind === "edit" && job.tab === store.tab && isOpen(job))?.id ?? null;
    const [mask, painted] = [mine(this.maskJob), mine(this.paintJob)];
    if (mask && isOpen(mask)) this.say(requests.progressText(mask));
    else if (mask) this.takeMask(mask);
    const running = painted && isOpen(painted);
    find("#paint").hidden = Boolean(running);
    find("#stop").hidden = find("#progress").hidden = !running;
    if (running) {
      this.say(requests.progressText(painted));
      const progress = find("#progress");
      if (painted.total) Object.assign(progress, { max: painted.total, value: painted.done });
      else progress.removeAttribute("value");
    } else if (painted) this.takePainted(painted);
    if (store.current) find("#paint").disabled = !this.isComplete || Boolean(this.paintJob);
  }

  takeState({ pictures, results }) {
    store.pictures = pictures;
    store.results = results;
    this.pictures.draw();
    this.results.draw();
    if (!picture() && pictures.length) this.open(pictures.at(-1).id);
  }

  // What is shown and said

  show(view) {
    this.view = view;
    const isResult = view === "result" && this.results.shown;
    for (const [id, on] of [["mask", !isResult], ["result", isResult]]) {
      find(`#${id}-view`).hidden = find(`#${id}-tools`).hidden = !on;
      find(`#show-${id}`).setAttribute("aria-pressed", String(Boolean(on)));
    }
    find("#views").hidden = !this.results.shown;
    this.commandSoon();
  }

  zoom(how) {
    const shown = this.view === "result" ? this.results.compare : this.painter;
    if (how === "fit") shown.fit();
    else shown.zoom(Number(how));
  }

  async showCommand() {
    const shows = this.view === "result" && this.results.shown;
    const place = find("#command");
    let line = shows ? this.results.shown.command : "";
    if (!line && store.current && this.isComplete) {
      line = await requests.commands(this.painter).then((said) => said.edit, () => "");
    }
    place.textContent = line;
    find("#command-label").textContent = T.command_edit;
    find("#copy").disabled = !line;
  }

  say(text) {
    if (find("#status").textContent !== text) find("#status").textContent = text;
  }

  fail(text, offersAnyway = false) {
    this.problem(text, { offersAnyway });
  }

  problem(text, { mild = false, offersAnyway = false } = {}) {
    find("#problem").hidden = !text;
    find("#problem").classList.toggle("mild", mild);
    find("#problem-text").textContent = text || "";
    find("#paint-anyway").hidden = !offersAnyway;
  }
}

const isOpen = (job) => job.status === "waiting" || job.status === "running";

async function begin() {
  store.about = await ask("/api/state");
  Object.assign(store, { pictures: store.about.pictures, results: store.about.results });
  const editor = new Editor();
  editor.results.draw();
  await editor.open((picture() || store.pictures[0])?.id ?? null);
  listen(
    ["jobs", "state"],
    (name, data) => (name === "jobs" ? editor.take(data.jobs) : editor.takeState(data)),
    (here) => (find("#connection").hidden = here),
  );
}

begin();
