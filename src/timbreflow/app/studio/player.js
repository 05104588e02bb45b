// One transport for all sounds of a result: choosing another goes on at the same place.
const all = (what) => [...element.querySelectorAll(what)];
const one = (what) => element.querySelector(what);
const clock = (s) => `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")}`;
const track = () => one(".tf-chosen");
const audio = () => one(".tf-chosen audio");

function show() {
  const now = audio();
  if (!now) return;
  const length = now.duration || 0;
  const share = length ? now.currentTime / length : 0;
  one(".tf-seek").value = Math.round(share * 1000);
  one(".tf-seek").setAttribute("aria-valuetext", `${clock(now.currentTime)} of ${clock(length)}`);
  one(".tf-time").textContent = `${clock(now.currentTime)} / ${clock(length)}`;
  one(".tf-play").textContent = now.paused ? "▶" : "❚❚";
  one(".tf-play").setAttribute("aria-label", now.paused ? "Play" : "Pause");
  all(".tf-head").forEach((head) => { head.style.display = "none"; });
  track().querySelectorAll(".tf-head").forEach((head) => { head.style.display = "block"; head.style.left = `${share * 100}%`; });
  if (!now.paused && element.isConnected) requestAnimationFrame(show);
}

function choose(number) {
  const before = audio();
  const next = one(`.tf-track[data-number="${number}"]`);
  if (!next || next === track()) return;
  const playing = before && !before.paused;
  const place = before ? before.currentTime : 0;
  if (before) before.pause();
  all(".tf-track").forEach((other) => other.classList.toggle("tf-chosen", other === next));
  const now = audio();
  // A style may be shorter: its place is counted around.
  now.currentTime = now.duration ? place % now.duration : place;
  if (playing) now.play();
  const radio = one(`input[type=radio][value="${number}"]`);
  if (radio) radio.checked = true;
  show();
}

element.addEventListener("click", (event) => {
  if (event.target.closest(".tf-play")) {
    const now = audio();
    if (now.paused) now.play().then(show); else now.pause();
    show();
  }
  const view = event.target.closest(".tf-view");
  if (view) {
    choose(view.closest(".tf-track").dataset.number);
    const box = view.getBoundingClientRect();
    audio().currentTime = (audio().duration || 0) * (event.clientX - box.left) / box.width;
    show();
  }
  const copy = event.target.closest(".tf-copy");
  if (copy) {
    const code = one(".tf-command code");
    const said = () => { copy.textContent = "Copied"; };
    if (navigator.clipboard) navigator.clipboard.writeText(code.textContent).then(said, () => getSelection().selectAllChildren(code));
    else getSelection().selectAllChildren(code);
  }
});
element.addEventListener("change", (event) => { if (event.target.type === "radio") choose(event.target.value); });
element.addEventListener("input", (event) => {
  if (event.target.classList.contains("tf-seek")) { audio().currentTime = (audio().duration || 0) * event.target.value / 1000; show(); }
});
for (const kind of ["ended", "loadedmetadata", "play", "pause"]) element.addEventListener(kind, show, true);
