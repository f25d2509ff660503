// Results: before and after under a slider, variants side by side, download, and the strip of all results.
import { Compare } from "./compare.js";
import { TEXTS, element, fill, find } from "./page.js";
import { store } from "./store.js";

const T = TEXTS.editor;

export class Results {
  // `choose` is called with a result that a person chose in the strip; `further` with a result and an output's number.
  constructor(choose, further) {
    this.choose = choose;
    this.compare = new Compare(find("#result-view"), find("#compare"));
    this.shown = null;
    this.output = 0;
    find("#further").addEventListener("click", () => further(this.shown, this.output));
    find("#no-results").textContent = fill(T.no_results, store.about);
  }

  // Shows a result, its first variant.
  show(result) {
    this.shown = result;
    this.select(0);
    this.draw();
  }

  select(number) {
    this.output = number;
    const output = this.shown.outputs[number];
    const picture = store.pictures.find((one) => one.id === this.shown.picture);
    this.compare.load(picture?.url || output.url, output.url, fill(T.result_label, output));
    const link = find("#download");
    link.href = output.download;
    link.download = output.name;
    this.drawVariants();
  }

  drawVariants() {
    const several = this.shown.outputs.length > 1 ? this.shown.outputs : [];
    find("#variants").replaceChildren(
      ...several.map((output, number) => {
        const label = fill(T.variant, { number: number + 1, seed: output.seed });
        return thumb(output, label, number === this.output, () => this.select(number), true);
      }),
    );
  }

  // Draws the strip of all results, the newest first.
  draw() {
    find("#no-results").hidden = store.results.length > 0;
    find("#results").replaceChildren(
      ...[...store.results].reverse().map((result) => {
        const output = result.outputs[0];
        return thumb(output, output.name, result.id === this.shown?.id, () => this.choose(result), false);
      }),
    );
  }
}

function thumb(output, label, pressed, onclick, large) {
  return element(
    "button",
    {
      type: "button",
      class: large ? "thumb large" : "thumb",
      title: label,
      "aria-label": label,
      "aria-pressed": String(pressed),
      onclick,
    },
    element("img", { src: output.url, alt: "", loading: "lazy" }),
  );
}
