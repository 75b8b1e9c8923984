// What the theme leaves out: boxes that scroll are reached by the keyboard, the glossary can be searched as one types,
// and the search works from the disk.

// A page that was opened from the disk may not fetch others: the search then shows what it found without their beginnings.
if (location.protocol === "file:") window.fetch = async () => new Response("");

const WIDE = "pre, .cell_output .output, div.math, mjx-container, .pst-scrollable-table-container, .bd-sidebar";

const letKeyboardsScroll = () => {
  for (const box of document.querySelectorAll(WIDE)) {
    const scrolls = box.scrollWidth > box.clientWidth + 1 && getComputedStyle(box).overflowX !== "visible";
    if (scrolls && !box.querySelector("a, button, input")) box.tabIndex = 0;
  }
};

const letTheGlossaryBeSearched = () => {
  const table = document.querySelector("table.glossary");
  if (!table) return;
  const field = Object.assign(document.createElement("input"), { type: "search", className: "glossary-filter" });
  field.setAttribute("aria-label", field.placeholder = "Find a word · 用語を探す");
  field.addEventListener("input", () => {
    const wanted = field.value.trim().toLowerCase();
    for (const row of table.tBodies[0].rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
  });
  (table.closest(".pst-scrollable-table-container") ?? table).before(field);
};

letTheGlossaryBeSearched();
addEventListener("load", () => setTimeout(letKeyboardsScroll, 500));
addEventListener("resize", letKeyboardsScroll);
for (const folded of document.querySelectorAll("details")) folded.addEventListener("toggle", letKeyboardsScroll);

// From the disk a page may not start the workers that the live page draws with.
const fromDisk = document.getElementById("live-from-disk");
if (fromDisk) fromDisk.hidden = location.protocol !== "file:";
