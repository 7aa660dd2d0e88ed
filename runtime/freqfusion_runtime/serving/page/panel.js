// SPDX-License-Identifier: Apache-2.0
// The column beside the picture: models, classes, time, files.

const DECIMALS = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const WHOLE = new Intl.NumberFormat("en");

/** Words a share in [0, 1]; "100.0 %" is said of a whole only. */
export function percent(share) {
  if (share > 0 && share < 0.0005) {
    return "< 0.1 %";
  }
  return share < 1 && share >= 0.9995 ? "> 99.9 %" : `${DECIMALS.format(share * 100)} %`;
}

/** Words a time: three digits that matter. */
export function milliseconds(ms) {
  return ms >= 1000 ? `${(ms / 1000).toFixed(2)} s` : ms >= 100 ? `${ms.toFixed(0)} ms` : `${ms.toFixed(1)} ms`;
}

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** Makes an element; an attribute of value false is left out. */
export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false) {
      node.setAttribute(name, value);
    }
  }
  node.append(...children);
  return node;
}

/** The list of classes, each a switch. Arrow keys move along it, so that it is one stop of the Tab key. */
export class Legend {
  #list;
  #rows = [];
  #hidden = new Set();
  #change;
  #point;

  /**
   * @param {HTMLElement} list
   * @param {(hidden: Set<string>) => void} change called when classes are switched
   * @param {(key: string | null) => void} point called when one is pointed at
   */
  constructor(list, change, point) {
    this.#list = list;
    this.#change = change;
    this.#point = point;
    list.addEventListener("click", (event) => this.#onClick(event));
    list.addEventListener("keydown", (event) => this.#onKey(event));
    list.addEventListener("pointerover", (event) => {
      if (event.pointerType === "mouse") {
        point(event.target.closest("button")?.dataset.key ?? null);
      }
    });
    list.addEventListener("pointerleave", () => point(null));
    list.addEventListener("focusin", (event) => {
      if (event.target.matches(":focus-visible")) {
        point(event.target.dataset.key ?? null);
      }
    });
    list.addEventListener("focusout", () => point(null));
  }

  /** Lists classes; those switched off stay so. */
  show(rows) {
    const focused = document.activeElement?.dataset?.key;
    this.#rows = rows;
    this.#list.style.setProperty("--models", String(rows[0]?.shares.length ?? 1));
    this.#list.replaceChildren(...rows.map((row, index) => this.#row(row, index)));
    [...this.#list.children].find((button) => button.dataset.key === focused)?.focus();
  }

  /** Switches all classes on or off. */
  setAll(visible) {
    this.#hidden = new Set(visible ? [] : this.#rows.map((row) => row.key));
    for (const button of this.#list.children) {
      button.setAttribute("aria-pressed", String(visible));
    }
    this.#change(this.#hidden);
  }

  #row({ key, name, color, shares }, index) {
    const swatch = element("span", { class: "swatch" });
    swatch.style.backgroundColor = `rgb(${color})`;
    const bars = shares.map((share) => {
      const bar = element("span", { class: "bar" });
      bar.style.setProperty("--share", String(share));
      bar.style.setProperty("--color", `rgb(${color})`);
      return bar;
    });
    return element(
      "button",
      {
        type: "button",
        class: "class",
        "data-key": key,
        "aria-pressed": String(!this.#hidden.has(key)),
        tabindex: index === 0 ? "0" : "-1",
      },
      swatch,
      element("span", { class: "name", title: name }, name),
      ...shares.map((share) => element("span", { class: "share" }, share > 0 ? percent(share) : "–")),
      element("span", { class: "bars", "aria-hidden": "true" }, ...bars),
    );
  }

  #onClick(event) {
    const button = event.target.closest("button");
    if (button === null) {
      return;
    }
    const { key } = button.dataset;
    if (!this.#hidden.delete(key)) {
      this.#hidden.add(key);
    }
    button.setAttribute("aria-pressed", String(!this.#hidden.has(key)));
    this.#change(this.#hidden);
  }

  #onKey(event) {
    const buttons = [...this.#list.children];
    const at = buttons.indexOf(document.activeElement);
    const targets = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: buttons.length - 1 };
    const target = buttons[targets[event.key]];
    if (at >= 0 && target !== undefined) {
      event.preventDefault();
      buttons[at].tabIndex = -1;
      target.tabIndex = 0;
      target.focus();
    }
  }
}

/** Draws where the time of one or two requests went: a bar on a common scale, and its parts in numbers. */
export function showTimes(place, results) {
  const totals = results.map((result) => result.stages.reduce((sum, stage) => sum + stage.ms, 0));
  const longest = Math.max(...totals);
  place.replaceChildren(
    ...results.map((result, index) => {
      const track = element("div", { class: "track", "aria-hidden": "true" });
      track.style.setProperty("--length", String(totals[index] / longest));
      const parts = element("dl", { class: "parts" });
      for (const { name, ms } of result.stages) {
        const piece = element("span", { class: `piece ${name}` });
        piece.style.setProperty("--part", String(ms / totals[index]));
        track.append(piece);
        parts.append(
          element("div", {}, element("dt", {}, element("i", { class: name }), capital(name)), element("dd", {}, milliseconds(ms))),
        );
      }
      const heading = [
        ...(results.length > 1 ? [element("span", { class: "who" }, result.model.name)] : []),
        element("span", { class: "total" }, milliseconds(totals[index])),
      ];
      return element("div", { class: "time" }, element("p", { class: "sum" }, ...heading), track, parts);
    }),
  );
}

/** Says what the models are, how their FreqFusion operators run, and on how much they agree. */
export function showModels(place, models, agreement) {
  const blocks = models.map((model) => {
    const facts = [model.architecture, model.precision, engineName(model.engine), `${model.classes.length} classes`];
    const block = element(
      "div",
      { class: "model" },
      element("p", { class: "who" }, model.name),
      element("p", { class: "facts" }, facts.filter(Boolean).join(" · ")),
    );
    if (model.operators.length > 0) {
      block.append(operatorsOf(model));
    }
    if (model.weights === "random") {
      const text = "This network has not been trained; its classes mean nothing.";
      block.append(element("p", { class: "warning" }, element("strong", {}, "Random weights. "), text));
    }
    if (model.problem !== "") {
      block.append(element("p", { class: "warning" }, model.problem));
    }
    return block;
  });
  if (agreement !== null) {
    const { share, same } = agreement;
    const count = WHOLE.format(Math.round((1 - share) * same.length));
    const lines = [element("strong", {}, percent(share)), " of the pixels agree", element("small", {}, `${count} differ`)];
    blocks.push(element("p", { class: "agreement" }, ...lines));
  }
  place.replaceChildren(...blocks);
}

/** Shortens `CPUExecutionProvider` to `CPU`. */
function engineName(engine) {
  return engine.replace(/ExecutionProvider$/, "");
}

function operatorsOf(model) {
  const count = (operators) => operators.reduce((sum, operator) => sum + operator.count, 0);
  const kernels = count(model.operators.filter((operator) => operator.path === "kernel"));
  const all = count(model.operators);
  const lamp = kernels === all ? "full" : kernels > 0 ? "half" : "empty";
  const counted = [
    [kernels, "kernel", "kernels"],
    [all - kernels, "function body", "function bodies"],
  ].flatMap(([number, one, many]) => (number > 0 ? [`${number} ${number === 1 ? one : many}`] : []));
  const summary = `FreqFusion operators: ${counted.join(", ")}`;
  const rows = model.operators.map((operator) =>
    element(
      "li",
      {},
      element("span", {}, `${operator.operator} × ${operator.count}`),
      element("span", { class: "path" }, operator.path),
    ),
  );
  return element(
    "details",
    { class: "operators" },
    element("summary", {}, element("span", { class: `lamp ${lamp}`, "aria-hidden": "true" }), summary),
    element("ul", {}, ...rows),
  );
}
