// The noise that PyTorch draws on a CPU for a seed, so that this page starts where the notebooks start (chapter 3).

// Whole numbers of 32 bits from a Mersenne Twister, MT19937 (Matsumoto and Nishimura, 1998).
export function twister(seed) {
  const state = new Uint32Array(624);
  state[0] = seed;
  for (let i = 1; i < 624; i++) {
    const before = state[i - 1] ^ (state[i - 1] >>> 30);
    state[i] = Math.imul(before, 1812433253) + i;
  }
  let place = 624;
  const renew = () => {
    for (let i = 0; i < 624; i++) {
      const mixed = (state[i] & 0x80000000) | (state[(i + 1) % 624] & 0x7fffffff);
      state[i] = state[(i + 397) % 624] ^ (mixed >>> 1) ^ (mixed & 1 ? 0x9908b0df : 0);
    }
    place = 0;
  };
  return () => {
    if (place === 624) renew();
    let y = state[place++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  };
}

// `count` standard normal numbers, a multiple of 16: uniform ones become normal ones by Box and Muller's rule, in blocks
// of sixteen of which the first eight give the radius and the others the angle.
export function seededNoise(seed, count) {
  const next = twister(seed);
  const noise = Float32Array.from({ length: count }, () => (next() & 0xffffff) / 0x1000000);
  for (let block = 0; block < count; block += 16) {
    for (let i = block; i < block + 8; i++) {
      const radius = Math.sqrt(-2 * Math.log(1 - noise[i]));
      const angle = 2 * Math.PI * noise[i + 8];
      noise[i] = radius * Math.cos(angle);
      noise[i + 8] = radius * Math.sin(angle);
    }
  }
  return noise;
}
