// A service worker that adds the two headers which let this site's live page use several threads; it keeps nothing.

addEventListener("install", () => skipWaiting());
addEventListener("activate", (event) => event.waitUntil(clients.claim()));

async function isolated(request) {
  const answer = await fetch(request);
  const headers = new Headers(answer.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  return new Response(answer.body, { status: answer.status, statusText: answer.statusText, headers });
}

addEventListener("fetch", (event) => {
  const { pathname, origin } = new URL(event.request.url);
  const page = event.request.mode === "navigate" && /\/draw(\.html)?$/.test(pathname);
  const script = pathname.includes("/_static/live/") && pathname.endsWith("js");
  if (origin === location.origin && (page || script)) event.respondWith(isolated(event.request));
});
