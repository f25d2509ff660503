// The controls of the panel: they show settings, and report those that differ from the defaults.
import { TEXTS, copy, element, find } from "./page.js";
import { store } from "./store.js";

const T = TEXTS.editor;
const USUAL = { grow: 0.4, guidance: null }; // where a slider stands if the default is the model's own

export class Controls {
  constructor(onchange) {
    this.onchange = onchange;
    this.options = Object.fromEntries(store.about.options.map((option) => [option.name, option]));
    this.inputs = [...document.querySelectorAll("[data-setting]")];
    this.fillSelects();
    this.listLoras();
    for (const input of this.inputs) {
      input.addEventListener("input", () => this.changed(input));
      if (this.options[input.dataset.setting]) input.title = this.options[input.dataset.setting].help;
    }
    find("#pull-copy").addEventListener("click", (event) =>
      copy(find("#pull-line").textContent, event.target, TEXTS.shared.copied),
    );
  }

  fillSelects() {
    for (const name of ["mask-method", "region", "preset"]) {
      const choices = name === "preset" ? store.about.presets : this.options[name].choices;
      for (const choice of choices) find(`#${name}`).append(element("option", { value: choice }, choice));
    }
    const models = find("#model");
    for (const model of store.about.models) {
      const ready = model.ready ? {} : { "data-missing": "" };
      models.append(element("option", { value: model.name, ...ready }, model.ready ? model.title : `${model.title} ↓`));
    }
  }

  listLoras() {
    const place = find("#loras");
    place.hidden = !store.about.loras.length;
    for (const { name } of store.about.loras) {
      const box = element("input", { type: "checkbox", value: name, checked: true });
      box.addEventListener("input", () => {
        const chosen = [...place.querySelectorAll(":checked")].map((one) => one.value);
        this.report("lora", chosen.length === store.about.loras.length ? undefined : chosen);
      });
      place.append(element("label", { class: "check" }, box, name));
    }
  }

  defaultOf(name) {
    if (name === "model") return store.about.model;
    return this.options[name]?.default ?? null;
  }

  // Shows settings; what is not set has its default.
  show(settings) {
    for (const input of this.inputs) {
      const name = input.dataset.setting;
      const value = name in settings ? settings[name] : this.defaultOf(name);
      if (input.type === "checkbox") input.checked = Boolean(value);
      else if (input.type === "range") input.value = typeof value === "number" ? value : (USUAL[name] ?? 0.5);
      else if (document.activeElement !== input || String(input.value) !== String(value ?? "")) {
        input.value = value ?? "";
      }
      if (input.type === "number") input.placeholder = this.defaultOf(name) ?? T.default;
      const shown = find(`#${name}-shown`);
      if (shown) shown.textContent = value === null || value === undefined ? T.default : String(value);
    }
    for (const box of find("#loras").querySelectorAll("input")) {
      box.checked = !settings.lora || settings.lora.includes(box.value);
    }
  }

  changed(input) {
    const name = input.dataset.setting;
    const numeric = input.type === "range" || input.type === "number";
    let value = input.type === "checkbox" ? input.checked : numeric && input.value ? Number(input.value) : input.value;
    if (name === "model" && input.selectedOptions[0].hasAttribute("data-missing")) {
      this.tellMissing(value);
      input.value = store.about.model;
      value = store.about.model;
    } else if (name === "model") find("#pull").hidden = true;
    this.report(name, value === "" || value === this.defaultOf(name) ? undefined : value);
  }

  tellMissing(name) {
    const model = store.about.models.find((one) => one.name === name);
    find("#pull-text").textContent = T.pull.replace("{name}", name);
    find("#pull-line").textContent = model.pull;
    find("#pull").hidden = false;
  }

  report(name, value) {
    this.onchange(name, value);
  }
}
