// One picture of the review: it is patched in place when it changes.
import { TEXTS, element, fill, percent } from "./page.js";

const T = TEXTS.review;

export class ReviewCard {
  // `act` is called with what a person asks for: accepted, refused, open, correct or large.
  constructor(data, act) {
    this.act = act;
    this.image = element("img", { alt: "", loading: "lazy", decoding: "async" });
    this.veil = element("span", { class: "veil" });
    this.badge = element("span", { class: "badge" });
    this.shown = element(
      "button",
      { type: "button", class: "shown", onclick: () => act("large") },
      this.image,
      this.veil,
      this.badge,
    );
    this.name = element("p", { class: "name" });
    this.state = element("p", { class: "hint" });
    this.message = element("p", { class: "message" });
    this.accept = this.button("accepted", T.accept);
    this.refuse = this.button("refused", T.refuse);
    this.correct = element("button", { type: "button", class: "button quiet", onclick: () => act("correct") }, T.correct);
    this.node = element(
      "li",
      { class: "card" },
      this.shown,
      element("div", { class: "about" }, this.name, this.state, this.message),
      element("div", { class: "choices" }, this.accept, this.refuse, this.correct),
    );
    this.show(data);
  }

  button(decision, text) {
    const choose = () => this.act(this.data.decision === decision ? "open" : decision);
    return element("button", { type: "button", class: "button quiet", "data-decide": decision, onclick: choose }, text);
  }

  show(data) {
    this.data = data;
    const hasMask = Boolean(data.mask);
    this.node.dataset.decision = data.decision;
    this.node.dataset.state = data.state;
    this.name.textContent = this.name.title = data.name;
    const painted = data.state === "painted";
    const decided = T[`state_${data.decision}`];
    this.badge.textContent = painted ? `✓ ${T.painted}` : { accepted: "✓ ", refused: "✕ ", open: "" }[data.decision] + decided;
    this.badge.hidden = data.decision === "open" && !painted;
    const found = hasMask ? fill(T.found, { share: percent(data.area) }) : T[data.state] || "";
    this.state.textContent = data.corrected ? `${found} · ${T.corrected}` : found;
    this.message.textContent = data.message || "";
    this.message.hidden = !data.message;
    this.shown.setAttribute("aria-label", fill(T.card, { name: data.name, state: `${decided}, ${this.state.textContent}` }));
    this.setImage(painted ? data.result : data.small);
    this.veil.hidden = painted || !hasMask;
    if (!this.veil.hidden) this.veil.style.setProperty("--mask", `url("${data.mask}")`);
    this.accept.setAttribute("aria-pressed", String(data.decision === "accepted"));
    this.refuse.setAttribute("aria-pressed", String(data.decision === "refused"));
    this.accept.disabled = !hasMask;
    this.correct.disabled = !data.width;
  }

  setImage(url) {
    if (this.image.getAttribute("src") !== url) this.image.src = url;
  }

  matches(filter) {
    const { decision, state } = this.data;
    return filter === "all" || filter === decision || filter === state;
  }
}
