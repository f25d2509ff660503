"use strict";
(() => {
  const find = (id) => document.getElementById(id);
  const entries = JSON.parse(find("entries").textContent);
  const grid = find("grid");
  const viewer = find("viewer");
  const AHEAD = "800px 0px"; // cards are filled before they scroll into view, and emptied after
  const CLICK = 5; // pixels that a pointer may move and still mean a click

  // Text from results is only ever set as text, never as markup.
  function make(tag, className, text) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  }

  const total = (entry) => Object.values(entry.seconds || {}).reduce((sum, seconds) => sum + seconds, 0);
  const time = (seconds) => (seconds < 60 ? `${seconds.toFixed(1)} s` : `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`);
  const share = (area) => `${area && area < 0.001 ? (100 * area).toPrecision(1) : (100 * area).toFixed(1)} %`;
  const prompts = (entry) => [entry.from, entry.to].filter((words) => words !== undefined).join(" → ");
  const named = (entry) => entry.name || "?";
  const middle = (entry) => entry.cut ?? 50; // initial slider position, in percent of the width

  // Comparing before and after

  function loaded(pair, picture, kind, large, say) {
    const image = make("img", kind);
    image.alt = kind;
    image.draggable = false;
    image.decoding = "async";
    const fit = () => pair.style.setProperty("--aspect", image.naturalWidth / image.naturalHeight);
    image.addEventListener("load", () => { fit(); image.hidden = false; });
    image.addEventListener("error", () => image.remove());
    image.hidden = !picture.small; // otherwise the alternative text and a broken picture would show
    if (picture.small) image.src = picture.small;
    if (large && picture.full && (kind !== "mask" || !picture.small)) {
      const whole = new Image();
      whole.addEventListener("load", () => { image.src = whole.src; });
      const copy = picture.small ? "; what you see is a small copy" : "";
      whole.addEventListener("error", () => say(`The file is not there any more, or this browser cannot show it${copy}.`));
      whole.src = picture.full;
    }
    return image;
  }

  // A pair with its slider. In a card a click, other than a drag, goes through to the card.
  function compare(entry, { large = false, variant = 0, cut = middle(entry), onCut = () => {}, say = () => {} }) {
    const pair = make("div", "pair");
    const after = (entry.after || [])[variant];
    pair.append(loaded(pair, entry.before, "before", large, say));
    if (after) pair.append(loaded(pair, after, "after", large, say));
    if (entry.mask && entry.mask.small) pair.append(loaded(pair, entry.mask, "mask", large, say));
    if (!after) {
      pair.classList.add("single");
      return { pair, set: () => {} };
    }
    const range = make("input");
    range.type = "range";
    range.step = 1;
    range.setAttribute("aria-label", `How much of ${named(entry)} is shown as it was before`);
    range.tabIndex = large ? 0 : -1;
    pair.append(make("div", "edge"), range);

    function set(percent) {
      const held = Math.min(100, Math.max(0, percent));
      pair.style.setProperty("--cut", `${held}%`);
      range.value = held;
      onCut(held);
    }
    const follow = (event) => {
      const box = pair.getBoundingClientRect();
      set((100 * (event.clientX - box.left)) / box.width);
    };
    let start = null;
    pair.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      start = event.clientX;
      pair.dragged = false;
      if (large) follow(event);
    });
    pair.addEventListener("pointermove", (event) => {
      if (start === null || (!large && !pair.dragged && Math.abs(event.clientX - start) < CLICK)) return;
      if (!pair.dragged) pair.setPointerCapture(event.pointerId);
      pair.dragged = true;
      pair.classList.add("dragging");
      follow(event);
    });
    for (const end of ["pointerup", "pointercancel"]) {
      pair.addEventListener(end, () => {
        start = null;
        pair.classList.remove("dragging");
      });
    }
    range.addEventListener("input", () => set(range.valueAsNumber));
    set(cut);
    return { pair, set };
  }

  // The grid: a card for each picture, filled only while it is near the screen

  const cards = entries.map((entry, number) => {
    const node = make("article", `card ${entry.status}`);
    const frame = make("div", "frame");
    const text = make("div", "text");
    node.append(frame, text);
    const words = `${prompts(entry)} ${named(entry)}`.toLowerCase();
    return { entry, number, node, frame, text, words, filled: false, cut: middle(entry) };
  });
  const cardOf = new Map(cards.map((card) => [card.node, card]));
  let visible = [];
  let current = 0; // index in visible

  function fill(card) {
    if (card.filled) return;
    card.filled = true;
    const { entry } = card;
    const failed = !entry.after;
    const name = make("button", "name", named(entry));
    name.type = "button";
    name.title = entry.path || "";
    name.tabIndex = visible[current] === card ? 0 : -1;
    const figures = make("span", "figures");
    const parts = [entry.status === "done" ? "" : entry.status === "skipped" ? "done before" : entry.status];
    if (entry.area !== undefined) parts.push(`${share(entry.area)} masked`);
    if (total(entry)) parts.push(time(total(entry)));
    if ((entry.after || []).length > 1) parts.push(`${entry.after.length} variants`);
    figures.textContent = parts.filter(Boolean).join(" · ");
    if (failed) figures.classList.add(entry.status);
    const words = make("span", "words", prompts(entry));
    words.title = prompts(entry);
    card.text.append(name, words, figures);

    const { pair } = compare(entry, { cut: card.cut, onCut: (cut) => { card.cut = cut; } });
    const range = pair.querySelector("input");
    if (range) range.tabIndex = name.tabIndex;
    card.frame.append(pair);
    if (failed) {
      const why = make("p", "why");
      why.append(make("span", "", entry.error || entry.status));
      card.frame.classList.add("alone");
      card.frame.append(why);
    }
  }

  function empty(card) {
    if (!card.filled || card.node.contains(document.activeElement)) return;
    card.filled = false;
    card.frame.replaceChildren();
    card.text.replaceChildren();
  }

  const watcher = new IntersectionObserver(
    (changes) => {
      for (const change of changes) (change.isIntersecting ? fill : empty)(cardOf.get(change.target));
    },
    { rootMargin: AHEAD },
  );
  for (const card of cards) watcher.observe(card.node);

  grid.addEventListener("click", (event) => {
    const card = cardOf.get(event.target.closest(".card"));
    const pair = event.target.closest(".pair");
    if (!card || (pair && pair.dragged) || !event.target.closest(".frame, .name")) return;
    open(visible.indexOf(card));
  });

  // One card at a time is reached by Tab; arrow keys choose which
  function choose(position) {
    const controls = (card) => card.node.querySelectorAll("button, input");
    if (visible[current]) for (const control of controls(visible[current])) control.tabIndex = -1;
    current = Math.min(visible.length - 1, Math.max(0, position));
    if (!visible[current]) return;
    fill(visible[current]);
    for (const control of controls(visible[current])) control.tabIndex = 0;
  }

  function focusOn(position) {
    choose(position);
    const card = visible[current];
    if (!card) return;
    card.node.scrollIntoView({ block: "nearest" });
    card.text.querySelector(".name").focus({ preventScroll: true });
  }

  grid.addEventListener("focusin", (event) => {
    const position = visible.indexOf(cardOf.get(event.target.closest(".card")));
    if (position >= 0 && position !== current) choose(position);
  });

  // Filters and order

  const SHOWN = {
    all: () => true,
    failed: (entry) => entry.status === "failed",
    withheld: (entry) => entry.status === "withheld",
    small: (entry) => entry.small,
  };
  const known = (area, otherwise) => (area === undefined ? otherwise : area);
  const ORDERS = {
    run: (a, b) => a.number - b.number,
    slowest: (a, b) => total(b.entry) - total(a.entry) || a.number - b.number,
    smallest: (a, b) => known(a.entry.area, 2) - known(b.entry.area, 2) || a.number - b.number,
    largest: (a, b) => known(b.entry.area, -1) - known(a.entry.area, -1) || a.number - b.number,
  };

  function update() {
    const shown = SHOWN[document.querySelector("[name=show]:checked").value];
    const wanted = find("words").value.toLowerCase().split(/\s+/).filter(Boolean);
    visible = cards.filter((card) => shown(card.entry) && wanted.every((word) => card.words.includes(word)));
    visible.sort(ORDERS[find("order").value]);
    grid.replaceChildren(...visible.map((card) => card.node));
    choose(0);
    find("nothing").hidden = visible.length > 0;
    find("count").textContent = visible.length < cards.length ? `${visible.length} of ${cards.length}` : "";
  }

  for (const radio of document.querySelectorAll("[name=show]")) radio.addEventListener("change", update);
  find("words").addEventListener("input", update);
  find("order").addEventListener("change", update);

  // The viewer

  let opened = null; // index in visible
  let variant = 0;
  let masked = false;
  let slider = null;

  function open(position) {
    if (!visible[position]) return;
    if (position !== opened) variant = 0;
    opened = position;
    if (!viewer.open) viewer.showModal();
    show();
    viewer.focus();
    viewer.scrollTop = 0;
  }

  function show() {
    const { entry } = visible[opened];
    const stage = find("stage");
    const tools = find("tools");
    find("viewer-name").textContent = named(entry);
    find("position").textContent = `${opened + 1} of ${visible.length}`;
    find("previous").disabled = opened === 0;
    find("next").disabled = opened === visible.length - 1;
    const sentence = find("sentence");
    sentence.textContent = entry.error || "";
    sentence.className = `sentence ${entry.status}`;

    const note = make("p", "none");
    const say = (text) => { if (note.isConnected) note.textContent = text; };
    slider = compare(entry, { large: true, variant, say });
    if (entry.after) {
      slider.pair.append(make("span", "label left", "before"), make("span", "label right", "after"));
    }
    slider.pair.classList.toggle("masked", masked);
    const nothing = ![entry.before, ...(entry.after || [])].some((picture) => picture.small || picture.full);
    stage.replaceChildren(nothing ? make("p", "none", "The pictures are not where they were.") : slider.pair);

    tools.replaceChildren();
    if (entry.mask && entry.mask.small) {
      const button = make("button", "", "Mask");
      button.type = "button";
      button.id = "mask";
      button.setAttribute("aria-pressed", masked);
      button.addEventListener("click", toggleMask);
      tools.append(button);
    }
    const after = entry.after || [];
    for (let number = 0; after.length > 1 && number < after.length; number++) {
      const button = make("button", "", `${number + 1}`);
      button.type = "button";
      button.title = named(after[number]);
      button.setAttribute("aria-pressed", number === variant);
      button.addEventListener("click", () => { variant = number; show(); viewer.focus(); });
      tools.append(button);
    }
    for (const [label, picture] of [["Open before", entry.before], ["Open after", after[variant]], ["Open mask", entry.mask]]) {
      if (!picture || !picture.full) continue;
      const link = make("a", "", label);
      link.href = picture.full;
      link.target = "_blank";
      link.rel = "noopener";
      tools.append(link);
    }
    tools.after(note);
    for (const old of viewer.querySelectorAll(".under > .none")) if (old !== note) old.remove();
    find("facts").replaceChildren(...facts(entry));
    for (const beside of [opened + 1, opened - 1]) ahead(visible[beside]);
  }

  function facts(entry) {
    const stages = Object.entries(entry.seconds || {}).map(([stage, seconds]) => `${stage} ${time(seconds)}`);
    const rows = [
      ["Prompt", prompts(entry), true],
      ["Mask", entry.area !== undefined && `${share(entry.area)} of the picture`],
      ["Time", total(entry) && `${time(total(entry))}${stages.length > 1 ? ` (${stages.join(", ")})` : ""}`],
      ["Network evaluations", entry.evaluations],
      ["From the cache", (entry.cached || []).join(", ")],
      ["Model", [entry.model, entry.device].filter(Boolean).join(" on ")],
      ["Seed", entry.seed !== undefined && String(entry.seed)],
      ["File", entry.path, true],
      ["Warnings", (entry.warnings || []).join(" "), true],
    ];
    return rows.filter(([, value]) => value).map(([label, value, wide]) => {
      const fact = make("div", wide ? "wide" : "");
      fact.append(make("dt", "", label), make("dd", "", value));
      return fact;
    });
  }

  // Loads ahead what the next key press is likely to show
  function ahead(card) {
    if (!card) return;
    for (const picture of [card.entry.before, (card.entry.after || [])[0]]) {
      if (picture && picture.full) new Image().src = picture.full;
    }
  }

  function toggleMask() {
    masked = !masked;
    slider.pair.classList.toggle("masked", masked);
    const button = find("mask");
    if (button) button.setAttribute("aria-pressed", masked);
  }

  function step(by) {
    if (visible[opened + by]) open(opened + by);
  }

  find("previous").addEventListener("click", () => step(-1));
  find("next").addEventListener("click", () => step(1));
  find("close").addEventListener("click", () => viewer.close());
  viewer.tabIndex = -1;
  viewer.addEventListener("close", () => {
    const position = opened;
    opened = null;
    find("stage").replaceChildren();
    focusOn(position);
  });

  // Keys

  const inViewer = {
    ArrowRight: () => step(1),
    ArrowLeft: () => step(-1),
    Home: () => open(0),
    End: () => open(visible.length - 1),
    m: toggleMask,
    b: () => slider.set(100),
    a: () => slider.set(0),
  };

  function inGrid(key, onCard) {
    const columns = getComputedStyle(grid).gridTemplateColumns.split(" ").length;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
    if (onCard && key in steps) {
      const target = current + steps[key];
      return visible[target] ? () => focusOn(target) : () => {};
    }
    if (onCard && key === "Home") return () => focusOn(0);
    if (onCard && key === "End") return () => focusOn(visible.length - 1);
    if (key === "ArrowLeft" || key === "ArrowRight") return () => focusOn(current);
    if (key === "/") return () => find("words").focus();
    return undefined;
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { target, key } = event;
    if (target.id === "words" && key === "Escape") {
      target.value = "";
      update();
    }
    const moves = key.startsWith("Arrow") || key === "Home" || key === "End";
    const own = target.matches("[type=search], select") || (moves && target.matches("[type=range], [type=radio]"));
    if (own || find("help").open) return;
    const act = key === "?"
      ? () => find("help").showModal()
      : viewer.open
        ? inViewer[key.length === 1 ? key.toLowerCase() : key]
        : inGrid(key, Boolean(target.closest(".card")));
    if (!act) return;
    event.preventDefault();
    act();
  });

  update();
})();
