// What the live page's own arithmetic gives, for tests that compare it with PyTorch and Diffusers. The folder with the
// page's scripts, and what is wanted, come in the arguments; numbers in JSON by standard input; JSON comes out.

import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [folder, wanted] = process.argv.slice(2);
const part = (name) => import(pathToFileURL(`${folder}/${name}.js`));
const given = JSON.parse(readFileSync(0, "utf8"));

const answers = {
  async noise({ seed, count }) {
    return [...(await part("noise")).seededNoise(seed, count)];
  },
  // The UNet is a simple rule that the test knows too: its answer depends on latents and time.
  async latents({ scheduler, steps, start }) {
    const { times, step } = (await part("schedulers")).SCHEDULERS[scheduler](steps);
    let latents = Float32Array.from(start);
    for (const [i, time] of times.entries()) {
      const noise = latents.map((x) => Math.sin(x) + time / 2000);
      ({ latents } = step(i, noise, latents));
    }
    return { times, latents: [...latents] };
  },
};

console.log(JSON.stringify(await answers[wanted](given)));
