// SPDX-License-Identifier: Apache-2.0
// Paints a photo under its class colours, on the screen and for the download.

const LITTLE_ENDIAN = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1;
const FADED = 0.18; // opacity of the other classes while one is pointed at
const OUTLINE = 0.7; // how far an outline's colour goes towards white

/**
 * How each label is painted.
 *
 * @param {(label: number) => {key: string, color: number[]}} describe
 * @param {number} count labels to describe, from 0
 * @param {{hidden: Set<string>, pointed: string | null, colors: Map<string, number[]>}} look
 * @returns {{fill: Uint32Array, edge: Uint32Array}} a canvas pixel for each label; 0 is nothing
 */
export function brush(describe, count, look) {
  const fill = new Uint32Array(count);
  const edge = new Uint32Array(count);
  for (let label = 0; label < count; label += 1) {
    const { key, color } = describe(label);
    if (look.hidden.has(key)) {
      continue;
    }
    const rgb = look.colors.get(key) ?? color;
    const alpha = look.pointed === null || look.pointed === key ? 1 : FADED;
    fill[label] = pixel(rgb, alpha);
    edge[label] = pixel(rgb.map((level) => level + (255 - level) * OUTLINE), alpha);
  }
  return { fill, edge };
}

function pixel([red, green, blue], alpha) {
  const parts = [red, green, blue, alpha * 255].map(Math.round);
  const [r, g, b, a] = parts;
  return LITTLE_ENDIAN ? ((a << 24) | (b << 16) | (g << 8) | r) >>> 0 : ((r << 24) | (g << 16) | (b << 8) | a) >>> 0;
}

/**
 * Colours a label map at a given size, by the nearest label, with outlines inside the classes' edges.
 *
 * @param {{width: number, height: number, labels: ArrayLike<number>}} map
 * @param {{fill: Uint32Array, edge: Uint32Array}} brush
 * @param {{width: number, height: number, outline: number, skip: Uint8Array | null}} how size of the mask, width of
 *     the outlines in its pixels (0 for none), and the pixels of the map to leave out
 * @returns {HTMLCanvasElement}
 */
export function paintMask(map, { fill, edge }, { width, height, outline, skip }) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  const columns = Int32Array.from({ length: width }, (_, x) => Math.floor(((x + 0.5) * map.width) / width));
  const sampled = new Uint16Array(width * height);
  for (let y = 0, out = 0; y < height; y += 1) {
    const row = Math.floor(((y + 0.5) * map.height) / height) * map.width;
    for (let x = 0; x < width; x += 1, out += 1) {
      const at = row + columns[x];
      sampled[out] = map.labels[at];
      pixels[out] = skip !== null && skip[at] ? 0 : fill[map.labels[at]];
    }
  }
  if (outline > 0) {
    drawOutlines(pixels, sampled, edge, width, height, outline);
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

function drawOutlines(pixels, labels, edge, width, height, thickness) {
  for (let y = 0, at = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1, at += 1) {
      const label = labels[at];
      for (let step = 1; step <= thickness; step += 1) {
        const right = x + step < width && labels[at + step] !== label;
        const below = y + step < height && labels[at + step * width] !== label;
        if ((right || below) && pixels[at] !== 0) {
          pixels[at] = edge[label];
          break;
        }
      }
    }
  }
}

/**
 * Draws photo and masks onto a whole canvas.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {CanvasImageSource | null} photo null leaves plain grey
 * @param {{mask: CanvasImageSource, from: number, to: number}[]} layers masks, each for a part of the width in [0, 1]
 * @param {number} opacity of the masks, in [0, 1]
 */
export function paint(context, photo, layers, opacity) {
  const { width, height } = context.canvas;
  context.globalAlpha = 1;
  context.imageSmoothingEnabled = true;
  context.imageSmoothingQuality = "high";
  if (photo === null) {
    context.fillStyle = "#777";
    context.fillRect(0, 0, width, height);
  } else {
    context.clearRect(0, 0, width, height);
    context.drawImage(photo, 0, 0, width, height);
  }
  context.imageSmoothingEnabled = false; // between two labels lies no third
  context.globalAlpha = opacity;
  for (const { mask, from, to } of layers) {
    context.save();
    context.beginPath();
    context.rect(Math.round(from * width), 0, Math.round(to * width) - Math.round(from * width), height);
    context.clip();
    context.drawImage(mask, 0, 0, width, height);
    context.restore();
  }
  context.globalAlpha = 1;
}
