// A part of a style, dragged over its waveform.
let from = null;
const place = (event) => {
  const box = element.querySelector(".tf-segment").getBoundingClientRect();
  return Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
};
element.addEventListener("pointerdown", (event) => {
  if (!event.target.closest(".tf-segment")) return;
  from = place(event);
  element.querySelector(".tf-segment").setPointerCapture(event.pointerId);
});
element.addEventListener("pointermove", (event) => {
  if (from === null) return;
  const to = place(event);
  const part = element.querySelector(".tf-part");
  part.style.left = `${Math.min(from, to) * 100}%`;
  part.style.width = `${Math.abs(to - from) * 100}%`;
});
element.addEventListener("pointerup", (event) => {
  if (from === null) return;
  const to = place(event), seconds = Number(element.querySelector(".tf-segment").dataset.seconds);
  const start = Math.min(from, to) * seconds, end = Math.max(from, to) * seconds;
  from = null;
  if (end - start > 0.05) trigger("select", { start: start, end: end });
});
