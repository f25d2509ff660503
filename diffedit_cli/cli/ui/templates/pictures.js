// Opening pictures: by the button, by dropping or pasting them, and choosing among those that are open.
import { History } from "./history.js";
import { TEXTS, ask, element, fill, find } from "./page.js";
import { EMPTY, store } from "./store.js";

const T = TEXTS.editor;

export class Pictures {
  // `show` is called with the id of the picture to show, or null; `fail` with the sentence of a refusal.
  constructor(show, fail) {
    this.show = show;
    this.fail = fail;
    find("#open").addEventListener("change", (event) => {
      this.upload([...event.target.files]);
      event.target.value = "";
    });
    find("#open-first").addEventListener("click", () => find("#open").click());
    this.listenToDrops();
    document.addEventListener("paste", (event) => {
      if (event.clipboardData.files.length) this.upload([...event.clipboardData.files]);
    });
  }

  listenToDrops() {
    let inside = 0;
    const mark = (by) => {
      inside = Math.max(0, inside + by);
      document.body.classList.toggle("dropping", inside > 0);
    };
    document.addEventListener("dragenter", () => mark(1));
    document.addEventListener("dragleave", () => mark(-1));
    document.addEventListener("dragover", (event) => event.preventDefault());
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      mark(-inside);
      this.upload([...event.dataTransfer.files]);
    });
  }

  async upload(files) {
    for (const file of files) {
      try {
        const path = `/api/pictures?name=${encodeURIComponent(file.name)}`;
        this.add(await ask(path, { method: "POST", body: file }));
      } catch (error) {
        this.fail(`${file.name}: ${error.message}`);
      }
    }
  }

  // Opens a result as a picture; what it became is there now.
  async openResult(result, output) {
    const opened = await ask("/api/pictures/kept", { method: "POST", json: { result: result.id, output } });
    store.edits.set(opened.id, new History({ ...EMPTY, settings: { from: result.settings.to || "" } }));
    this.add(opened);
  }

  add(opened) {
    if (!store.pictures.some((one) => one.id === opened.id)) store.pictures = [...store.pictures, opened];
    this.show(opened.id);
  }

  // Draws the strip of open pictures.
  draw() {
    const strip = find("#pictures");
    const known = new Map([...strip.children].map((child) => [child.dataset.id, child]));
    const wanted = store.pictures.map((one) => known.get(one.id) || this.thumb(one));
    strip.replaceChildren(...(store.pictures.length > 1 ? wanted : []));
    for (const child of strip.children) child.setAttribute("aria-pressed", String(child.dataset.id === store.current));
  }

  thumb(picture) {
    return element(
      "button",
      {
        type: "button",
        class: "thumb",
        "data-id": picture.id,
        "aria-label": picture.name,
        title: picture.name,
        onclick: () => this.show(picture.id),
        onkeydown: (event) => event.key === "Delete" && this.close(picture),
      },
      element("img", { src: picture.url, alt: "", loading: "lazy" }),
    );
  }

  async close(picture) {
    try {
      await ask(`/api/pictures/${picture.id}`, { method: "DELETE" });
    } catch (error) {
      this.fail(fill(T.close_picture, picture) + `: ${error.message}`);
      return;
    }
    store.pictures = store.pictures.filter((one) => one.id !== picture.id);
    if (store.current === picture.id) this.show(store.pictures[0]?.id ?? null);
    this.draw();
  }
}
