// SPDX-License-Identifier: Apache-2.0
// The page: holds what is chosen, and keeps picture, panel and address in step with it.

import { connectIntake } from "./intake.js";
import { Legend, element, showModels, showTimes } from "./panel.js";
import { classesPresent } from "./result.js";
import { ServiceError, fetchSample, listModels, segment, useKey } from "./service.js";
import { Stage } from "./stage.js";

const $ = (id) => document.getElementById(id);
const announce = (text) => {
  $("announce").textContent = text;
};

const stage = new Stage($("frame"), announce);
const look = { hidden: new Set(), pointed: null, colors: new Map() };
const legend = new Legend(
  $("legend"),
  (hidden) => stage.setLook(Object.assign(look, { hidden })),
  (pointed) => pointed !== look.pointed && stage.setLook(Object.assign(look, { pointed })),
);

let models = [];
let maxBytes = Infinity;
let photo = null; // {blob, name}
let results = new Map(); // model id -> what it said about this photo
let running = null; // AbortController of the requests under way
let retry = null; // what "Try again" does

const chosen = () => models.find((model) => model.id === $("model").value);
const rival = () => models.find((model) => model.id === $("against").value && model !== chosen());

async function loadModels() {
  try {
    ({ models, maxBytes } = await listModels());
  } catch (error) {
    showError(error, loadModels);
    return;
  }
  hideNotice();
  if (models.length === 0) {
    notify("This page has nothing to show", "None of the models here labels pixels. Their tensors are served under /v2/models.");
    return;
  }
  const wanted = new URLSearchParams(location.search);
  const preset = models.find((model) => model.isDefault) ?? models[0];
  fill($("model"), models, $("model").value || (wanted.get("model") ?? preset.id));
  fill($("against"), models, $("against").value || (wanted.get("against") ?? ""), "Nothing");
  $("model").disabled = false;
  $("against-choice").hidden = models.length < 2;
  keepRivalsApart();
  if (models.some((model) => model.state === "LOADING")) {
    setTimeout(loadModels, 1000);
  } else if (photo !== null && running === null && results.size === 0) {
    run(); // it arrived before the list did
  }
}

function fill(select, options, value, none) {
  const entries = options.map((model) => {
    const note = model.state === "READY" ? "" : ` (${model.state.toLowerCase()})`;
    return element("option", { value: model.id, disabled: model.state === "READY" ? false : "" }, model.name + note);
  });
  select.replaceChildren(...(none ? [element("option", { value: "" }, none)] : []), ...entries);
  select.value = value;
  if (select.selectedIndex < 0) {
    select.selectedIndex = 0;
  }
}

/** A model is not compared with itself. */
function keepRivalsApart() {
  for (const option of $("against").options) {
    option.hidden = option.value === $("model").value;
  }
  if ($("against").value === $("model").value) {
    $("against").value = "";
  }
}

async function take(blob, name) {
  if (blob.size > maxBytes) {
    // A server that refuses a body closes the connection, and some browsers then show no answer at all.
    const [size, limit] = [blob.size, maxBytes].map((bytes) => `${(bytes / 2 ** 20).toFixed(1)} MiB`);
    notify("The photo is too large", `${name} has ${size}; this server takes ${limit}. Choose a smaller one.`);
    return;
  }
  photo = { blob, name, bitmap: null };
  results = new Map();
  showView("work");
  hideNotice();
  const mine = photo;
  // Rotation by EXIF is applied here as it is by the server. TIFF is read there but not by every browser.
  const bitmap = await createImageBitmap(blob, { imageOrientation: "from-image" }).catch(() => null);
  if (photo !== mine) {
    return;
  }
  photo.bitmap = bitmap;
  stage.showPhoto(bitmap, bitmap?.width ?? 3, bitmap?.height ?? 2);
  $("picture-size").textContent = bitmap ? `${name}, ${bitmap.width} × ${bitmap.height}` : name;
  window.scrollTo({ top: 0 });
  await run();
}

function showView(view) {
  document.body.dataset.view = view;
  document.querySelector(".start").hidden = view !== "start";
  document.querySelector(".work").hidden = view !== "work";
}

/** Asks the chosen models, one after the other so that neither waits for the other, and shows what is known. */
async function run() {
  running?.abort();
  if (photo === null || models.length === 0) {
    return;
  }
  const mine = new AbortController();
  running = mine;
  hideNotice();
  showView("work");
  $("progress").hidden = true; // the aborted run leaves it to this one
  $("frame").removeAttribute("aria-busy");
  keepRivalsApart();
  rememberChoice();
  show();
  try {
    for (const model of [chosen(), rival()].filter(Boolean)) {
      if (!results.has(model.id)) {
        const result = await withProgress(model, mine.signal);
        results.set(model.id, result);
        show();
      }
    }
    announce(summary());
  } catch (error) {
    if (!mine.signal.aborted) {
      if (photo.bitmap === null && results.size === 0) {
        showView("start"); // neither the server nor the browser can read it
      }
      showError(error, run);
    }
  } finally {
    if (running === mine) {
      running = null;
    }
  }
}

async function withProgress(model, signal) {
  const start = performance.now();
  let note = "Segmenting";
  const tick = () => {
    $("progress-text").textContent = `${note} with ${model.name} · ${((performance.now() - start) / 1000).toFixed(1)} s`;
  };
  const waiting = (seconds) => {
    note = `Busy, asking again in ${seconds.toFixed(0)} s:`;
    setTimeout(() => {
      note = "Segmenting";
    }, seconds * 1000);
  };
  tick();
  const timer = setInterval(tick, 100);
  $("progress").hidden = false;
  $("frame").setAttribute("aria-busy", "true");
  announce(`Segmenting with ${model.name}`);
  try {
    return await segment(photo.blob, model, { signal, waiting });
  } finally {
    clearInterval(timer);
    // A later run shows its own progress by now.
    if (!signal.aborted) {
      $("progress").hidden = true;
      $("frame").removeAttribute("aria-busy");
    }
  }
}

function show() {
  const shown = [chosen(), rival()].map((model) => results.get(model?.id)).filter(Boolean);
  const rows = classesPresent(shown);
  look.colors = new Map(rows.map((row) => [row.key, row.color]));
  stage.setLook(look);
  stage.showResults(shown);
  legend.show(rows);
  showModels($("models"), [chosen(), rival()].filter(Boolean), stage.agreement);
  showTimes($("times"), shown);
  showFiles(shown);
  const pair = shown.length === 2;
  $("side-first").textContent = pair ? shown[0].model.name : "";
  $("side-second").textContent = pair ? shown[1].model.name : "";
  $("heads").replaceChildren(...(pair ? shown.map((result) => element("span", {}, result.model.name)) : []));
  $("heads").hidden = !pair;
  $("only-differences-choice").hidden = stage.agreement === null;
  document.querySelector(".panel").classList.toggle("empty", shown.length === 0);
  $("classes-title").textContent = rows.length > 0 ? `Classes (${rows.length})` : "Classes";
  $("picture").setAttribute("aria-label", summary() || "Photo");
}

function summary() {
  return [chosen(), rival()]
    .map((model) => results.get(model?.id))
    .filter(Boolean)
    .map((result) => {
      const rows = classesPresent([result]);
      const most = rows.slice(0, 3).map((row) => `${row.name} ${Math.round(row.shares[0] * 100)} %`);
      return `${result.model.name}: ${rows.length} classes, ${most.join(", ")}`;
    })
    .join(". ");
}

function showFiles(shown) {
  const stem = photo?.name.replace(/\.[^.]*$/, "") ?? "photo";
  const rows = shown.map((result) => {
    const name = shown.length === 2 ? `${stem}.${result.model.name.replaceAll(" ", "-")}` : stem;
    const about = shown.length === 2 ? ` of ${result.model.name}` : "";
    const mask = element("button", { type: "button", "aria-label": `Download the mask${about}` }, "Mask");
    const overlay = element("button", { type: "button", "aria-label": `Download the overlay${about}` }, "Overlay");
    mask.addEventListener("click", () => save(result.file, `${name}.labels.png`));
    overlay.addEventListener("click", async () => save(await stage.overlayFile(result), `${name}.overlay.png`));
    const who = shown.length === 2 ? [element("span", { class: "who" }, result.model.name)] : [];
    return element("div", { class: "file-row" }, ...who, mask, overlay);
  });
  $("files").replaceChildren(...rows);
}

function save(blob, name) {
  const address = URL.createObjectURL(blob);
  element("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** Keeps the models in the address, so that a comparison can be sent to somebody. */
function rememberChoice() {
  const query = new URLSearchParams({ model: chosen().id, ...(rival() ? { against: rival().id } : {}) });
  history.replaceState(null, "", `?${query}`.replaceAll("%3A", ":"));
}

function showError(error, again) {
  const known = error instanceof ServiceError;
  const asksForKey = known && (error.status === 401 || error.status === 403);
  // What the server refused once it refuses again; what it had no time or no room for may succeed.
  const mayPass = !known || error.status === 0 || error.status === 408 || error.status >= 500;
  const about = known && error.status > 0 ? `HTTP ${error.status}${error.request ? `, request ${error.request}` : ""}` : "";
  notify(known ? error.title : "The answer cannot be shown", error.message, about, mayPass ? again : null);
  $("key-form").hidden = !asksForKey;
}

function notify(title, text, about = "", again = null) {
  const notice = $("notice");
  notice.querySelector("strong").textContent = title;
  notice.querySelector("p").textContent = text;
  notice.querySelector("small").textContent = about;
  notice.querySelector("[data-do=retry]").hidden = again === null;
  $("key-form").hidden = true;
  retry = again;
  notice.hidden = false;
}

function hideNotice() {
  $("notice").hidden = true;
}

const intake = connectIntake(
  { veil: $("veil"), picker: $("picker"), shooter: $("shooter"), camera: $("camera") },
  take,
  notify,
);

const actions = {
  choose: intake.choose,
  shoot: intake.shoot,
  retry: () => retry?.(),
  dismiss: hideNotice,
  rerun: () => {
    results.delete(chosen().id);
    results.delete(rival()?.id);
    run();
  },
  "show-all": () => legend.setAll(true),
  "hide-all": () => legend.setAll(false),
};
document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.dataset.do in actions && !button.closest("dialog")) {
    actions[button.dataset.do]();
  }
});
for (const button of document.querySelectorAll("[data-sample]")) {
  button.addEventListener("click", async () => {
    try {
      const address = button.dataset.sample;
      take(await fetchSample(address), address.split("/").pop());
    } catch (error) {
      showError(error, () => button.click());
    }
  });
}
for (const button of document.querySelectorAll("[data-do=shoot]")) {
  button.hidden = !intake.hasCamera && !button.closest("dialog");
}
for (const select of [$("model"), $("against")]) {
  select.addEventListener("change", run);
}
$("opacity").addEventListener("input", () => {
  $("opacity-value").textContent = `${$("opacity").value} %`;
  $("opacity").style.setProperty("--value", `${$("opacity").value}%`);
  stage.setOpacity($("opacity").value / 100);
});
$("opacity").dispatchEvent(new Event("input"));
$("only-differences").addEventListener("change", () => stage.setOnlyDifferences($("only-differences").checked));
$("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  useKey($("key").value);
  $("key").value = "";
  await loadModels();
});
loadModels();
