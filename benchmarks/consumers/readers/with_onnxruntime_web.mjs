// SPDX-License-Identifier: Apache-2.0
// ONNX Runtime for browsers (wasm), under Node. Arguments: the model, raw fp32 in, sides joined by x, raw fp32 out.
import { readFileSync, writeFileSync } from "node:fs";
import * as ort from "onnxruntime-web";

const [model, inputs, sides, outputs] = process.argv.slice(2);
const bytes = readFileSync(inputs);
const values = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create(readFileSync(model), { executionProviders: ["wasm"] });
const found = await session.run({ images: new ort.Tensor("float32", values, sides.split("x").map(Number)) });
writeFileSync(outputs, Buffer.from(found.logits.data.buffer, found.logits.data.byteOffset, found.logits.data.byteLength));
