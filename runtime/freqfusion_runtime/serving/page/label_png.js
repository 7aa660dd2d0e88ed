// SPDX-License-Identifier: Apache-2.0
// Reads the label map out of a PNG. A canvas would give colours, and two classes may share one (ADE20K has such a pair).

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const PALETTE = 3;
const GREY = 0;

/**
 * Decodes a palette or grey PNG without interlace.
 *
 * @param {ArrayBuffer} buffer the file
 * @returns {Promise<{width: number, height: number, labels: Uint8Array | Uint16Array}>} rows from the top
 * @throws {Error} if it is not such a file
 */
export async function decodeLabelPng(buffer) {
  const bytes = new Uint8Array(buffer);
  if (SIGNATURE.some((byte, index) => bytes[index] !== byte)) {
    throw new Error("The answer is not a PNG file.");
  }
  const { header, packed } = readChunks(bytes);
  const { width, height, depth, color, interlace } = header;
  if ((color !== PALETTE && color !== GREY) || interlace !== 0) {
    throw new Error(`The label map has PNG colour type ${color}, interlace ${interlace}; expected a plain palette.`);
  }
  const stride = Math.ceil((width * depth) / 8);
  const rows = await inflate(packed, (stride + 1) * height);
  undoFilters(rows, stride, height, Math.max(1, depth / 8));
  return { width, height, labels: unpack(rows, width, height, stride, depth) };
}

function readChunks(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const parts = [];
  let header = null;
  for (let at = SIGNATURE.length; at + 12 <= bytes.length; ) {
    const length = view.getUint32(at);
    const kind = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    const start = at + 8;
    if (start + length + 4 > bytes.length) {
      break;
    }
    if (kind === "IHDR") {
      header = {
        width: view.getUint32(start),
        height: view.getUint32(start + 4),
        depth: bytes[start + 8],
        color: bytes[start + 9],
        interlace: bytes[start + 12],
      };
    } else if (kind === "IDAT") {
      parts.push(bytes.subarray(start, start + length));
    } else if (kind === "IEND" && header !== null) {
      return { header, packed: new Blob(parts) };
    }
    at = start + length + 4;
  }
  throw new Error("The label map is cut short.");
}

async function inflate(packed, expected) {
  const stream = packed.stream().pipeThrough(new DecompressionStream("deflate"));
  const rows = new Uint8Array(await new Response(stream).arrayBuffer());
  if (rows.length !== expected) {
    throw new Error(`The label map holds ${rows.length} bytes; its size calls for ${expected}.`);
  }
  return rows;
}

/** Undoes the five PNG row filters in place (PNG specification, section 9). */
function undoFilters(rows, stride, height, unit) {
  for (let y = 0; y < height; y += 1) {
    const row = y * (stride + 1) + 1;
    const above = row - stride - 1;
    const filter = rows[row - 1];
    for (let x = 0; x < stride && filter !== 0; x += 1) {
      const left = x >= unit ? rows[row + x - unit] : 0;
      const up = y > 0 ? rows[above + x] : 0;
      const corner = x >= unit && y > 0 ? rows[above + x - unit] : 0;
      rows[row + x] += predict(filter, left, up, corner);
    }
  }
}

function predict(filter, left, up, corner) {
  switch (filter) {
    case 1:
      return left;
    case 2:
      return up;
    case 3:
      return (left + up) >> 1;
    case 4: {
      const [a, b, c] = [Math.abs(up - corner), Math.abs(left - corner), Math.abs(left + up - 2 * corner)];
      return a <= b && a <= c ? left : b <= c ? up : corner;
    }
    default:
      throw new Error(`The label map uses PNG filter ${filter}, which does not exist.`);
  }
}

function unpack(rows, width, height, stride, depth) {
  const labels = depth === 16 ? new Uint16Array(width * height) : new Uint8Array(width * height);
  const mask = 2 ** depth - 1;
  for (let y = 0, out = 0; y < height; y += 1) {
    const row = y * (stride + 1) + 1;
    if (depth === 8) {
      labels.set(rows.subarray(row, row + width), out);
      out += width;
      continue;
    }
    for (let x = 0; x < width; x += 1, out += 1) {
      if (depth === 16) {
        labels[out] = (rows[row + 2 * x] << 8) | rows[row + 2 * x + 1];
      } else {
        const bit = x * depth;
        labels[out] = (rows[row + (bit >> 3)] >> (8 - depth - (bit & 7))) & mask;
      }
    }
  }
  return labels;
}
