// The three models in onnxruntime-web, which computes in WebAssembly, or on the GPU where one is asked for.

import * as ort from "./packages/ort.wasm.bundle.min.mjs";
import { bytes, kept } from "./files.js";

const MOST_THREADS = 4; // the pocket models are too small for more
const PARTS = ["text_encoder.onnx", "unet.onnx", "vae_decoder.onnx"];
const TOKENIZER = ["tokenizer.json", "tokenizer_config.json"];

const floats = (data, ...shape) => new ort.Tensor("float32", data, shape);

// Loads all files that `about` (models.json) names; `told(done, total)` hears of bytes. A model is made ready as soon as
// its own file is there.
export async function load(about, told) {
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, MOST_THREADS) : 1;
  const total = Object.values(about.files).reduce((a, b) => a + b);
  const come = {};
  const cache = await kept(about.set);
  const file = (name) => bytes(new URL(`models/${name}`, import.meta.url).href, cache, (length) => {
    come[name] = length;
    told(Object.values(come).reduce((a, b) => a + b), total);
  });
  const session = async (name) => ort.InferenceSession.create(await file(name), { executionProviders: ["wasm"] });
  const json = async (name) => JSON.parse(new TextDecoder().decode(await file(name)));
  const [sessions, tokenizer] = await Promise.all([Promise.all(PARTS.map(session)), Promise.all(TOKENIZER.map(json))]);
  return { threads: ort.env.wasm.numThreads, parts: parts(...sessions), tokenizer };
}

function parts(encoder, unet, decoder) {
  return {
    async encode(ids) {
      const { vectors } = await encoder.run({ ids: new ort.Tensor("int32", ids, [1, ids.length]) });
      return vectors.data;
    },
    async guess(latents, time, vectors) {
      const width = vectors.length / 2 / 77;
      const { noise, attention } = await unet.run({
        latents: floats(latents, 1, 4, 16, 16),
        step: floats(Float32Array.of(time), 1),
        text: floats(vectors, 2, 77, width),
      });
      return { noise: noise.data, attention: attention.data };
    },
    async decode(latents) {
      const { picture } = await decoder.run({ latents: floats(latents, 1, 4, 16, 16) });
      return picture.data; // [3, 128, 128] from 0 to 1
    },
  };
}
