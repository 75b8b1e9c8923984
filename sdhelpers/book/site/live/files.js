// Files that are fetched once and then kept by the browser (Cache API), under the name of this set of models.

export async function kept(set) {
  const name = `pocket-${set}`;
  try {
    for (const other of await caches.keys()) {
      if (other.startsWith("pocket-") && other !== name) await caches.delete(other);
    }
    return await caches.open(name);
  } catch {
    return null; // a browser that keeps nothing, in a private window for example, fetches anew
  }
}

// The bytes of a file; `told(bytes)` hears how many have come. Rejects with one sentence when it cannot be had.
export async function bytes(url, cache, told) {
  const known = await cache?.match(url);
  const answer = known ?? (await fetch(url).catch(() => null));
  if (!answer?.ok) throw new Error(`${url.split("/").pop()} could not be fetched: look at the connection and try again.`);
  const parts = [];
  let length = 0;
  const reader = answer.body.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    parts.push(part.value);
    told((length += part.value.length));
  }
  const whole = new Uint8Array(length);
  parts.reduce((place, part) => (whole.set(part, place), place + part.length), 0);
  if (!known) await cache?.put(url, new Response(whole)).catch(() => {});
  return whole;
}
