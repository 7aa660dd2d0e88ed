// SPDX-License-Identifier: Apache-2.0
// What one model said about one photo, and how two such answers differ.

/**
 * A label map with its classes counted.
 *
 * @typedef {object} Result
 * @property {Model} model
 * @property {number} width of the label map
 * @property {number} height of the label map
 * @property {Uint8Array | Uint16Array} labels rows from the top
 * @property {Blob} file the PNG as the server sent it
 * @property {Map<number, number>} counts pixels of each label present
 * @property {{name: string, ms: number}[]} stages in the order they happened
 */

/** Counts the pixels of each label. */
export function countLabels(labels) {
  const bins = new Uint32Array(65536);
  for (let i = 0; i < labels.length; i += 1) {
    bins[labels[i]] += 1;
  }
  const counts = new Map();
  bins.forEach((count, label) => count && counts.set(label, count));
  return counts;
}

/**
 * Lists the classes that any of the results holds, the largest of the first result first.
 *
 * Classes of two models are the same when their names are; the first model's colour is then used for both.
 *
 * @param {Result[]} results one or two
 * @returns {{key: string, name: string, color: number[], shares: number[]}[]} shares in [0, 1], one for each result
 */
export function classesPresent(results) {
  const rows = new Map();
  results.forEach((result, index) => {
    for (const [label, pixels] of result.counts) {
      const { key, name, color } = describe(result.model, label);
      const row = rows.get(key) ?? { key, name, color, shares: results.map(() => 0) };
      row.shares[index] += pixels / result.labels.length;
      rows.set(key, row);
    }
  });
  return [...rows.values()].sort((a, b) => b.shares[0] - a.shares[0] || Math.max(...b.shares) - Math.max(...a.shares));
}

/** Names a label: its class, the key under which it is the same class in another model, and its colour. */
export function describe(model, label) {
  const known = model.classes[label];
  const name = known ?? `class ${label}`;
  // Only a name that is said once can stand for the class in another model.
  const key = known === undefined || model.repeated.has(known) ? `${name} (${label})` : name;
  return { key, name, color: model.palette[label] ?? [128, 128, 128] };
}

/**
 * Marks the pixels on which two results agree.
 *
 * @returns {{same: Uint8Array, share: number} | null} null when their sizes differ
 */
export function agreement(a, b) {
  if (a.width !== b.width || a.height !== b.height) {
    return null;
  }
  const numbers = new Map();
  const numberOf = (model) =>
    Uint32Array.from({ length: 65536 }, (_, label) => {
      if (label >= model.classes.length && label > 255) {
        return 0xffffffff; // beyond every label of a palette picture
      }
      const { key } = describe(model, label);
      return numbers.get(key) ?? numbers.set(key, numbers.size).get(key);
    });
  const [first, second] = [numberOf(a.model), numberOf(b.model)];
  const same = new Uint8Array(a.labels.length);
  let count = 0;
  for (let i = 0; i < same.length; i += 1) {
    same[i] = first[a.labels[i]] === second[b.labels[i]] ? 1 : 0;
    count += same[i];
  }
  return { same, share: count / same.length };
}
