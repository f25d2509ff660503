// The review of a run: accept, refuse or correct the mask of each picture, then paint the accepted ones.
import { TEXTS, ask, copy, fill, find, listen } from "./page.js";
import { ReviewCard } from "./review_card.js";
import { Correction, LargeView } from "./review_dialogs.js";

const T = TEXTS.review;
const DECIDES = { a: "accepted", r: "refused", o: "open" };
const STEPS = { ArrowLeft: -1, ArrowRight: 1 };

class Review {
  constructor() {
    this.cards = new Map();
    this.filter = "all";
    this.sending = Promise.resolve();
    this.large = new LargeView();
    this.correction = new Correction((card) => this.patch(card));
    for (const button of document.querySelectorAll("[data-filter]")) {
      button.addEventListener("click", () => this.choose(button.dataset.filter));
    }
    find("#accept-all").addEventListener("click", () => this.post("/api/review/open", { decision: "accepted" }));
    find("#paint").addEventListener("click", () => this.post("/api/review/paint"));
    find("#stop").addEventListener("click", () => this.post("/api/review/stop"));
    find("#help-button").addEventListener("click", () => find("#help").showModal());
    find("#copy").addEventListener("click", (event) =>
      copy(find("#command").textContent, event.target, TEXTS.shared.copied),
    );
    document.addEventListener("keydown", (event) => this.key(event));
  }

  // What the server tells

  take(data) {
    const fresh = [];
    for (const card of data.cards) {
      if (this.cards.has(card.id)) this.patch(card);
      else fresh.push(this.add(card));
    }
    find("#grid").append(...fresh);
    this.showState(data);
    this.applyFilter();
  }

  add(data) {
    const card = new ReviewCard(data, (what) => this.act(card, what));
    this.cards.set(data.id, card);
    return card.node;
  }

  patch(data) {
    const card = this.cards.get(data.id);
    if (JSON.stringify(card.data) !== JSON.stringify(data)) card.show(data);
  }

  showState({ from, to, counts, finding, painting, problem, command }) {
    find("#pair").textContent = document.title = fill(T.pair, { from, to });
    find("#counts").textContent = fill(T.counts, counts);
    for (const [name, count] of Object.entries({ ...counts, all: finding.total })) {
      find(`[data-count="${name}"]`).textContent = count;
    }
    find("#finding").hidden = finding.done === finding.total;
    find("#finding-text").textContent = fill(T.finding, finding);
    Object.assign(find("#finding-bar"), { max: finding.total, value: finding.done });
    find("#accept-all").disabled = !counts.open;
    const button = find("#paint");
    button.textContent = counts.accepted ? fill(T.paint, { count: counts.accepted }) : T.paint_none;
    button.disabled = !counts.accepted;
    button.hidden = painting.running;
    find("#stop").hidden = find("#progress").hidden = !painting.running;
    const share = painting.steps ? painting.step / painting.steps : 0;
    Object.assign(find("#progress"), { max: painting.total || 1, value: painting.done + 0.99 * share });
    const ended = problem ? fill(T.stopped_early, { problem }) : "";
    this.say(painting.running ? fill(T.painting, painting) : ended);
    find("#command").textContent = command;
  }

  say(text) {
    if (find("#status").textContent !== text) find("#status").textContent = text;
  }

  // What a person does

  // Sends one request after the other, so that of two quick decisions the later one holds.
  post(path, json = {}) {
    this.sending = this.sending.then(() => this.send(path, json));
  }

  async send(path, json) {
    try {
      const said = await ask(path, { method: "POST", json });
      if (said.id) this.patch(said);
    } catch (error) {
      this.say(error.message);
    }
  }

  act(card, what) {
    if (what === "large") this.large.open(card.data);
    else if (what === "correct") this.correction.open(card.data);
    else this.post(`/api/review/${card.data.id}`, { decision: what });
  }

  choose(filter) {
    this.filter = filter;
    for (const button of document.querySelectorAll("[data-filter]")) {
      button.setAttribute("aria-pressed", String(button.dataset.filter === filter));
    }
    this.applyFilter();
  }

  applyFilter() {
    let shown = 0;
    for (const card of this.cards.values()) {
      card.node.hidden = !card.matches(this.filter);
      shown += !card.node.hidden;
    }
    find("#none").hidden = shown > 0;
  }

  key(event) {
    if (document.querySelector("dialog[open]") || event.ctrlKey || event.metaKey || event.altKey) return;
    const card = [...this.cards.values()].find((one) => one.node.contains(document.activeElement));
    if (event.key === "?") find("#help").showModal();
    else if (event.key === "p") find("#paint").click();
    else if (event.key in STEPS) this.move(card, STEPS[event.key]);
    else if (event.key === "ArrowDown" || event.key === "ArrowUp") this.move(card, this.columns * (event.key === "ArrowUp" ? -1 : 1));
    else if (card && event.key in DECIDES) this.act(card, DECIDES[event.key]);
    else if (card && event.key === "c" && card.data.width) this.act(card, "correct");
    else return;
    event.preventDefault();
  }

  get columns() {
    return getComputedStyle(find("#grid")).gridTemplateColumns.split(" ").length;
  }

  move(card, by) {
    const shown = [...this.cards.values()].filter((one) => !one.node.hidden);
    const at = card ? shown.indexOf(card) + by : 0;
    shown[Math.min(shown.length - 1, Math.max(0, at))]?.shown.focus();
  }
}

const review = new Review();
listen(
  ["review"],
  (_, data) => review.take(data),
  (here) => (find("#connection").hidden = here),
);
