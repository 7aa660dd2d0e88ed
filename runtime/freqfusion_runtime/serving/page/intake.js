// SPDX-License-Identifier: Apache-2.0
// Ways for a photo to arrive: chosen, dropped, pasted, or taken with the camera.

const touch = window.matchMedia("(pointer: coarse)");

/**
 * Connects every way in.
 *
 * @param {object} parts
 * @param {HTMLElement} parts.veil shown while a file is held over the page
 * @param {HTMLInputElement} parts.picker a file input
 * @param {HTMLInputElement} parts.shooter a file input that opens a phone's camera
 * @param {HTMLDialogElement} parts.camera the viewfinder for computers
 * @param {(photo: Blob, name: string) => void} take called with what arrived
 * @param {(title: string, text: string) => void} refuse called when it is no photo
 * @returns {{choose: () => void, shoot: () => void, hasCamera: boolean}}
 */
export function connectIntake({ veil, picker, shooter, camera }, take, refuse) {
  const accept = (files, verb) => {
    const file = [...files].find((each) => each.type.startsWith("image/")) ?? files[0];
    if (file === undefined) {
      refuse(`Nothing ${verb} that could be segmented`, "There was no file in it. Save the picture, then choose it.");
    } else if (file.type !== "" && !file.type.startsWith("image/")) {
      refuse("That is not a photo", `${file.name} is of type ${file.type}. JPEG, PNG, WebP, BMP, GIF and TIFF are read.`);
    } else {
      take(file, file.name || "pasted.png");
    }
  };
  for (const input of [picker, shooter]) {
    input.addEventListener("change", () => {
      if (input.files.length > 0) {
        accept(input.files, "chosen");
        input.value = ""; // the same file can be chosen again
      }
    });
  }
  connectDrop(veil, (files) => accept(files, "dropped"));
  document.addEventListener("paste", (event) => {
    if (event.target instanceof Element && event.target.closest("input, textarea")) {
      return;
    }
    event.preventDefault();
    accept(event.clipboardData.files, "pasted");
  });
  const hasViewfinder = Boolean(navigator.mediaDevices?.getUserMedia);
  const viewfinder = new Viewfinder(camera, take);
  return {
    choose: () => picker.click(),
    // A phone's own camera application takes better pictures than a video frame.
    shoot: () => (touch.matches || !hasViewfinder ? shooter.click() : viewfinder.open()),
    hasCamera: touch.matches || hasViewfinder,
  };
}

function connectDrop(veil, accept) {
  let depth = 0; // dragenter and dragleave also come from children
  const show = (visible) => {
    depth = visible ? depth : 0;
    veil.hidden = !visible;
  };
  const carriesFile = (event) => event.dataTransfer?.types.includes("Files");
  window.addEventListener("dragenter", (event) => {
    if (carriesFile(event)) {
      event.preventDefault();
      depth += 1;
      show(true);
    }
  });
  window.addEventListener("dragover", (event) => {
    if (carriesFile(event)) {
      event.preventDefault();
      event.dataTransfer.dropEffect = "copy";
    }
  });
  window.addEventListener("dragleave", (event) => {
    if (carriesFile(event)) {
      depth -= 1;
      show(depth > 0);
    }
  });
  window.addEventListener("drop", (event) => {
    event.preventDefault(); // else the browser leaves the page for the file
    show(false);
    accept(event.dataTransfer.files);
  });
}

class Viewfinder {
  #dialog;
  #video;
  #note;
  #button;
  #stream = null;
  #take;

  constructor(dialog, take) {
    this.#dialog = dialog;
    this.#take = take;
    this.#video = dialog.querySelector("video");
    this.#note = dialog.querySelector("[role=status]");
    this.#button = dialog.querySelector("[data-do=shoot]");
    this.#button.addEventListener("click", () => this.#shoot());
    dialog.querySelector("[data-do=cancel]").addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => this.#stop());
  }

  async open() {
    this.#say("Waiting for the camera …");
    this.#button.disabled = true;
    this.#dialog.showModal();
    try {
      const wanted = { video: { width: { ideal: 1920 }, height: { ideal: 1080 }, facingMode: "environment" } };
      const stream = await navigator.mediaDevices.getUserMedia(wanted);
      if (!this.#dialog.open) {
        stream.getTracks().forEach((track) => track.stop());
        return;
      }
      this.#stream = stream;
      this.#video.srcObject = stream;
      await this.#video.play();
      this.#say("");
      this.#button.disabled = false;
      this.#button.focus();
    } catch (error) {
      this.#say(explainCamera(error));
    }
  }

  #say(text) {
    this.#note.textContent = text;
    this.#note.hidden = text === "";
  }

  #shoot() {
    const canvas = document.createElement("canvas");
    canvas.width = this.#video.videoWidth;
    canvas.height = this.#video.videoHeight;
    canvas.getContext("2d").drawImage(this.#video, 0, 0);
    canvas.toBlob((blob) => this.#take(blob, "camera.jpg"), "image/jpeg", 0.95);
    this.#dialog.close();
  }

  #stop() {
    this.#stream?.getTracks().forEach((track) => track.stop());
    this.#stream = null;
    this.#video.srcObject = null;
  }
}

function explainCamera(error) {
  const reasons = {
    NotAllowedError: "The browser may not use the camera. Allow it in the address bar, then try again.",
    NotFoundError: "There is no camera on this device. Choose a photo instead.",
    NotReadableError: "Another program is using the camera. Close it, then try again.",
  };
  return reasons[error.name] ?? `The camera did not start: ${error.message}`;
}
