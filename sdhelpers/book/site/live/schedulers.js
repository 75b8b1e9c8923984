// Two samplers by hand, number for number those of Diffusers. Each gives the time steps at which the UNet is asked, and
// a move `step(i, noise, latents)` to the next latents, with the clean guess that it makes on the way (chapters 3 and 4).

const TRAINED = 1000;
const [FIRST, LAST] = [Math.sqrt(0.00085), Math.sqrt(0.012)];

// How much of a picture is left at each of the 1000 steps: the product of all (1 - beta) so far.
export const alphaBar = (() => {
  const left = [];
  for (let t = 0, product = 1; t < TRAINED; t++) {
    const beta = (FIRST + ((LAST - FIRST) * t) / (TRAINED - 1)) ** 2;
    left.push((product *= 1 - beta));
  }
  return left;
})();

const halfToEven = (x) => (Math.abs(x % 1) === 0.5 ? 2 * Math.round(x / 2) : Math.round(x));
const combine = (a, x, b, y) => x.map((value, i) => a * value + b * y[i]);
const cleanGuess = (latents, noise, left) =>
  combine(1 / Math.sqrt(left), latents, -Math.sqrt(1 - left) / Math.sqrt(left), noise);

// DDIM (Song et al., 2020), without fresh noise.
function ddim(count) {
  const stride = Math.floor(TRAINED / count);
  const times = Array.from({ length: count }, (_, i) => (count - 1 - i) * stride + 1);
  const step = (i, noise, latents) => {
    const after = alphaBar[Math.max(times[i] - stride, 0)];
    const clean = cleanGuess(latents, noise, alphaBar[times[i]]);
    return { clean, latents: combine(Math.sqrt(after), clean, Math.sqrt(1 - after), noise) };
  };
  return { times, step };
}

// DPM-Solver++ (Lu et al., 2022) of second order: the clean guess of the step before says where this one is heading.
function dpm(count) {
  const times = Array.from({ length: count }, (_, i) => halfToEven(((TRAINED - 1) * (count - i)) / count));
  const left = [...times.map((t) => alphaBar[t]), 1];
  const logarithm = left.map((a) => (Math.log(a) - Math.log(1 - a)) / 2);
  let former = null;
  const step = (i, noise, latents) => {
    const clean = cleanGuess(latents, noise, left[i]);
    const stride = logarithm[i + 1] - logarithm[i];
    const towards = Math.sqrt(left[i + 1]) * (1 - Math.exp(-stride));
    const keep = Math.sqrt((1 - left[i + 1]) / (1 - left[i]));
    let aim = clean;
    if (former && i + 1 < count) {
      const ahead = stride / (logarithm[i] - logarithm[i - 1]) / 2;
      aim = combine(1 + ahead, clean, -ahead, former);
    }
    former = clean;
    return { clean, latents: combine(keep, latents, towards, aim) };
  };
  return { times, step };
}

export const SCHEDULERS = { "DPM++ 2M": dpm, DDIM: ddim };
