// Whether this browser can draw at all, and whether it may use several threads.

// The smallest WebAssembly module that holds an instruction on vectors (SIMD).
const VECTORS = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];
const LEAST_MEMORY = 1; // gigabytes of the device

// One sentence where it cannot, else nothing.
export function reason() {
  if (!globalThis.WebAssembly || !WebAssembly.validate(Uint8Array.from(VECTORS))) {
    return "This browser has no WebAssembly with vector instructions (SIMD): a current Firefox, Chrome, Edge or Safari has.";
  }
  if ((navigator.deviceMemory ?? LEAST_MEMORY) < LEAST_MEMORY) {
    return "This device has less than a gigabyte of memory, which the models need: open the page on a larger one.";
  }
  if (!globalThis.isSecureContext) return "Browsers give such a page its rights over https or on this computer alone: open it so.";
  return "";
}

// Threads share memory only in a page that is isolated from others, which a server says in two headers. Where it does
// not, a service worker of our own adds them; the page is loaded once more, with them.
export async function isolate(script) {
  if (globalThis.crossOriginIsolated || !navigator.serviceWorker) return;
  try {
    await navigator.serviceWorker.register(script);
    await navigator.serviceWorker.ready;
    if (sessionStorage.getItem("isolated")) return; // it did not help: one thread then
    sessionStorage.setItem("isolated", "tried");
    location.reload();
    await new Promise(() => {});
  } catch {
    // no service worker may run here (a private window): one thread then
  }
}
