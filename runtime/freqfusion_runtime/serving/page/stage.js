// SPDX-License-Identifier: Apache-2.0
// The picture: photo, masks, the divider between two models, and the class under the pointer.

import { agreement, describe } from "./result.js";
import { brush, paint, paintMask } from "./painting.js";

const REVEAL_MS = 420;
const STEP = 1 / 40; // of the picture's width, for one press of an arrow key
const calm = window.matchMedia("(prefers-reduced-motion: reduce)");

export class Stage {
  #frame;
  #canvas;
  #context;
  #divider;
  #tip;
  #cross;
  #announce;
  #photo = null; // ImageBitmap or null
  #scaled = null; // the photo at the canvas' size
  #results = [];
  #agreement = null;
  #masks = null;
  #look = { hidden: new Set(), pointed: null, colors: new Map() };
  #onlyDifferences = false;
  #opacity = 0.6;
  #reveal = 1;
  #revealFrom = 0;
  #split = 0.5;
  #spot = null; // where the keyboard points, in [0, 1]
  #scheduled = false;

  /**
   * @param {HTMLElement} frame holds the canvas, the divider, the tip and the cross
   * @param {(text: string) => void} announce tells screen readers
   */
  constructor(frame, announce) {
    this.#frame = frame;
    this.#announce = announce;
    this.#canvas = frame.querySelector("canvas");
    this.#context = this.#canvas.getContext("2d");
    this.#divider = frame.querySelector("[role=slider]");
    this.#tip = frame.querySelector(".tip");
    this.#cross = frame.querySelector(".cross");
    new ResizeObserver(() => this.#fit()).observe(frame);
    this.#listen();
  }

  /** Where two models agree, or null where there is one, or their label maps have different sizes. */
  get agreement() {
    return this.#agreement;
  }

  /** Starts with another photo: nothing is segmented yet. */
  showPhoto(photo, width, height) {
    this.#photo = photo;
    this.#results = [];
    this.#agreement = null;
    this.#setRatio(width, height);
    this.#scaled = null;
    this.#masks = null;
    this.#hideTip();
    this.#divider.hidden = true;
    this.#schedule();
  }

  /** Shows what one or two models found; colours fade in when they are the photo's first. */
  showResults(results) {
    const first = this.#results.length === 0 && results.length > 0;
    this.#results = results;
    this.#agreement = results.length === 2 ? agreement(...results) : null;
    this.#divider.hidden = results.length < 2;
    if (this.#photo === null && results.length > 0) {
      this.#setRatio(results[0].width, results[0].height);
    }
    if (first && !calm.matches) {
      this.#reveal = 0;
      this.#revealFrom = performance.now();
    }
    this.#hideTip();
    this.#sayDivider();
    this.#repaintMasks();
  }

  setLook(look) {
    this.#look = look;
    this.#repaintMasks();
  }

  setOnlyDifferences(only) {
    this.#onlyDifferences = only;
    this.#repaintMasks();
  }

  setOpacity(opacity) {
    this.#opacity = opacity;
    this.#schedule();
  }

  /** Paints a result over the photo at the label map's own size. */
  async overlayFile(result) {
    const { width, height } = result;
    const canvas = document.createElement("canvas");
    canvas.width = width;
    canvas.height = height;
    const outline = Math.max(1, Math.round(Math.sqrt(width * height) / 700));
    const mask = this.#mask(result, { width, height, outline, pointed: null });
    paint(canvas.getContext("2d"), this.#photo, [{ mask, from: 0, to: 1 }], this.#opacity);
    return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  }

  #setRatio(width, height) {
    this.#frame.style.setProperty("--ratio", String(width / height));
  }

  #fit() {
    const box = this.#frame.getBoundingClientRect();
    const density = Math.min(window.devicePixelRatio || 1, 2);
    const [width, height] = [Math.round(box.width * density), Math.round(box.height * density)];
    if (width === 0 || height === 0 || (width === this.#canvas.width && height === this.#canvas.height)) {
      return;
    }
    this.#canvas.width = width;
    this.#canvas.height = height;
    this.#scaled = null;
    this.#masks = null;
    this.#paint(); // at once: a canvas that changes size is blank
  }

  #repaintMasks() {
    this.#masks = null;
    this.#schedule();
  }

  #schedule() {
    if (!this.#scheduled) {
      this.#scheduled = true;
      requestAnimationFrame(() => {
        this.#scheduled = false;
        this.#paint();
      });
    }
  }

  #paint() {
    const { width, height } = this.#canvas;
    if (this.#photo !== null && this.#scaled === null) {
      this.#scaled = document.createElement("canvas");
      this.#scaled.width = width;
      this.#scaled.height = height;
      paint(this.#scaled.getContext("2d"), this.#photo, [], 0);
    }
    this.#masks ??= this.#results.map((result) =>
      this.#mask(result, { width, height, outline: width > 1400 ? 2 : 1, pointed: this.#look.pointed }),
    );
    if (this.#reveal < 1) {
      this.#reveal = Math.min(1, (performance.now() - this.#revealFrom) / REVEAL_MS);
      this.#schedule();
    }
    const [first, second] = this.#masks;
    const layers = second
      ? [
          { mask: first, from: 0, to: this.#split },
          { mask: second, from: this.#split, to: 1 },
        ]
      : first
        ? [{ mask: first, from: 0, to: 1 }]
        : [];
    paint(this.#context, this.#scaled, layers, this.#opacity * (1 - (1 - this.#reveal) ** 3));
    this.#frame.style.setProperty("--split", `${this.#split * 100}%`);
  }

  #mask(result, { width, height, outline, pointed }) {
    const look = { ...this.#look, pointed };
    const count = Math.max(...result.counts.keys()) + 1;
    const skip = this.#onlyDifferences && this.#agreement ? this.#agreement.same : null;
    const paints = brush((label) => describe(result.model, label), count, look);
    return paintMask(result, paints, { width, height, outline: skip ? 0 : outline, skip });
  }

  #listen() {
    const canvas = this.#canvas;
    canvas.addEventListener("pointermove", (event) => this.#pointAt(event));
    canvas.addEventListener("pointerdown", (event) => this.#pointAt(event));
    canvas.addEventListener("pointerleave", (event) => {
      // A finger leaves the glass right after a tap; its answer must stay readable.
      if (event.pointerType === "mouse") {
        this.#hideTip();
      }
    });
    canvas.addEventListener("keydown", (event) => this.#walk(event));
    canvas.addEventListener("focus", () => {
      if (canvas.matches(":focus-visible") && this.#results.length > 0) {
        this.#inspectSpot(this.#spot ?? [0.5, 0.5]);
      }
    });
    canvas.addEventListener("blur", () => this.#hideTip());
    this.#divider.addEventListener("pointerdown", (event) => {
      this.#divider.setPointerCapture(event.pointerId);
      this.#divider.focus({ preventScroll: true });
      event.preventDefault();
    });
    this.#divider.addEventListener("pointermove", (event) => {
      if (this.#divider.hasPointerCapture(event.pointerId)) {
        const box = this.#frame.getBoundingClientRect();
        this.#moveDivider((event.clientX - box.left) / box.width);
      }
    });
    this.#divider.addEventListener("keydown", (event) => {
      const step = event.shiftKey ? 0.1 : 0.02;
      const moves = {
        ArrowLeft: this.#split - step,
        ArrowDown: this.#split - step,
        ArrowRight: this.#split + step,
        ArrowUp: this.#split + step,
        PageDown: this.#split - 0.1,
        PageUp: this.#split + 0.1,
        Home: 0,
        End: 1,
      };
      if (event.key in moves) {
        event.preventDefault();
        this.#moveDivider(moves[event.key]);
      }
    });
  }

  #moveDivider(split) {
    this.#split = Math.min(1, Math.max(0, split));
    this.#hideTip();
    this.#sayDivider();
    this.#schedule();
  }

  #sayDivider() {
    if (this.#results.length === 2) {
      const percent = Math.round(this.#split * 100);
      const [left, right] = this.#results.map((result) => result.model.name);
      this.#divider.setAttribute("aria-valuenow", String(percent));
      this.#divider.setAttribute("aria-valuetext", `${percent} % ${left}, ${100 - percent} % ${right}`);
    }
  }

  #pointAt(event) {
    const box = this.#canvas.getBoundingClientRect();
    this.#spot = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    this.#cross.hidden = event.pointerType === "mouse";
    this.#inspect(event.pointerType === "mouse" ? 16 : 44, false);
  }

  #walk(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key === "Escape") {
      this.#hideTip();
    } else if (event.key in moves && this.#results.length > 0) {
      event.preventDefault();
      const [right, down] = moves[event.key];
      const step = event.shiftKey ? 1 / this.#results[0].width : STEP;
      const [x, y] = this.#spot ?? [0.5, 0.5];
      const ratio = this.#canvas.width / this.#canvas.height;
      this.#inspectSpot([x + right * step, y + down * step * ratio]);
    }
  }

  #inspectSpot([x, y]) {
    this.#spot = [Math.min(1, Math.max(0, x)), Math.min(1, Math.max(0, y))];
    this.#cross.hidden = false;
    this.#inspect(16, true);
  }

  /** Names the class at the spot, `gap` CSS pixels above it, and says it aloud for the keyboard. */
  #inspect(gap, aloud) {
    if (this.#results.length === 0) {
      return;
    }
    const [x, y] = this.#spot;
    const found = this.#results.map((result) => {
      const column = Math.min(result.width - 1, Math.max(0, Math.floor(x * result.width)));
      const row = Math.min(result.height - 1, Math.max(0, Math.floor(y * result.height)));
      return describe(result.model, result.labels[row * result.width + column]);
    });
    const shown = found.length === 2 && x >= this.#split ? 1 : 0;
    const other = found[1 - shown];
    const differs = other !== undefined && other.key !== found[shown].key;
    const [swatch, name, note] = this.#tip.children;
    swatch.style.backgroundColor = `rgb(${this.#look.colors.get(found[shown].key) ?? found[shown].color})`;
    name.textContent = found[shown].name;
    note.textContent = differs ? `${this.#results[1 - shown].model.name}: ${other.name}` : "";
    this.#place(x, y, gap);
    if (aloud) {
      this.#announce([name.textContent, note.textContent].filter(Boolean).join("; "));
    }
  }

  #place(x, y, gap) {
    const box = this.#canvas.getBoundingClientRect();
    this.#tip.hidden = false;
    const [left, top] = [x * box.width, y * box.height];
    const [width, height] = [this.#tip.offsetWidth, this.#tip.offsetHeight];
    const clampedLeft = Math.min(box.width - width - 4, Math.max(4, left - width / 2));
    const above = top - height - gap;
    this.#tip.style.transform = `translate(${clampedLeft}px, ${above < 4 ? top + gap : above}px)`;
    this.#cross.style.transform = `translate(${left}px, ${top}px)`;
  }

  #hideTip() {
    this.#tip.hidden = true;
    this.#cross.hidden = true;
  }
}
