// One picture from settings, step by step: what chapter 5 writes out under "Text-to-image by hand".

import { seededNoise } from "./noise.js";
import { SCHEDULERS } from "./schedulers.js";

const NUMBERS = 4 * 16 * 16;

const guide = (without, given, scale) => without.map((value, i) => value + scale * (given[i] - value));

// The models are `parts`: encode(ids), guess(latents, time, vectors), decode(latents). `tell(kind, what)` is called with
// each tensor as soon as it is known; `wanted()` is asked before every step whether to go on. Nothing comes back where
// it says no.
export async function draw(settings, words, parts, tell, wanted) {
  const [negative, prompt] = [settings.negative, settings.prompt].map((text) => words.read(text));
  tell("tokens", { tokens: prompt.tokens, words: prompt.words, cut: prompt.cut, negativeCut: negative.cut });
  const [without, given] = [await parts.encode(negative.ids), await parts.encode(prompt.ids)];
  tell("vectors", { given });
  const vectors = new Float32Array([...without, ...given]);
  let latents = seededNoise(settings.seed, NUMBERS);
  tell("noise", { latents });
  const scheduler = SCHEDULERS[settings.scheduler](settings.steps);
  for (const [i, time] of scheduler.times.entries()) {
    if (!(await wanted())) return null;
    const { noise, attention } = await parts.guess(latents, time, vectors);
    const [unguided, conditioned] = [noise.slice(0, NUMBERS), noise.slice(NUMBERS)];
    const guided = settings.guidance > 1 ? guide(unguided, conditioned, settings.guidance) : conditioned;
    const before = latents;
    const moved = scheduler.step(i, guided, latents);
    latents = moved.latents;
    tell("step", { step: i + 1, of: scheduler.times.length, time, before, unguided, conditioned, guided,
      clean: moved.clean, latents, attention });
  }
  if (!(await wanted())) return null;
  return parts.decode(latents);
}
