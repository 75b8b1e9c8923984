// A field that a file is dropped on, or chosen with a click. The bytes go to Python as one message.
function render({ model, el }) {
  const zone = document.createElement("label");
  const input = document.createElement("input");
  zone.className = "sdhelpers-drop-zone";
  zone.tabIndex = 0;
  input.type = "file";
  input.accept = model.get("accept");
  input.style.display = "none";
  zone.append(document.createTextNode(model.get("description")), input);

  const send = async (file) => {
    if (!file) return;
    const fits = file.size <= model.get("most_bytes");
    model.send({ name: file.name, size: file.size }, undefined, fits ? [await file.arrayBuffer()] : []);
  };
  const mark = (over) => zone.classList.toggle("over", over);

  input.addEventListener("change", () => {
    send(input.files[0]);
    input.value = ""; // the same file may be chosen again
  });
  zone.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") input.click();
  });
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
    zone.addEventListener(kind, (event) => {
      event.preventDefault();
      event.stopPropagation();
      mark(kind === "dragenter" || kind === "dragover");
    });
  }
  zone.addEventListener("drop", (event) => send(event.dataTransfer.files[0]));
  el.append(zone);
}

export default { render };
