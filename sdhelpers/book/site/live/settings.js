// What decides how the picture looks: read from the form, from the address, and written back into it.

const LARGEST_SEED = 2 ** 32 - 1;
const MOST_STEPS = 100;
const MOST_GUIDANCE = 30;

const NAMES = ["prompt", "negative", "seed", "guidance", "steps", "scheduler"];

const whole = (text) => (/^\s*\d+\s*$/.test(text) ? Number(text) : NaN);
const within = (value, least, most) => value >= least && value <= most;

// The settings, or an Error with one sentence for the reader and the field that it is about.
export function read(form) {
  const value = (name) => form.elements[name].value;
  const settings = {
    prompt: value("prompt"), negative: value("negative"), scheduler: value("scheduler"),
    seed: whole(value("seed")), steps: whole(value("steps")), guidance: value("guidance").trim() === "" ? NaN : Number(value("guidance")),
  };
  const wrong = (name, sentence) => Object.assign(new Error(sentence), { field: form.elements[name] });
  if (!within(settings.seed, 0, LARGEST_SEED)) throw wrong("seed", `The seed is a whole number from 0 to ${LARGEST_SEED}.`);
  if (!within(settings.steps, 1, MOST_STEPS)) throw wrong("steps", `The steps are a whole number from 1 to ${MOST_STEPS}.`);
  if (!within(settings.guidance, 1, MOST_GUIDANCE)) throw wrong("guidance", `The guidance is a number from 1 (off) to ${MOST_GUIDANCE}.`);
  return settings;
}

// Puts what the address says into the form; a sampler that there is not stays out.
export function fromAddress(form) {
  const given = new URLSearchParams(location.search);
  for (const name of NAMES.filter((name) => given.has(name))) {
    const field = form.elements[name];
    const known = field.tagName !== "SELECT" || [...field.options].some((option) => option.value === given.get(name));
    if (known) field.value = given.get(name);
  }
}

// The address then leads to this very picture.
export function intoAddress(settings) {
  const query = new URLSearchParams(NAMES.filter((name) => settings[name] !== "").map((name) => [name, settings[name]]));
  history.replaceState(null, "", `?${query}${location.hash}`);
}
