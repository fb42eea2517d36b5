// The map: notes as points on a canvas, coloured and shaped by category; the pointer or the arrow keys find one, Enter opens it.

const REACH = 16; // px from the pointer within which a note is found
const EDGE = 22; // px left free around the points

export async function chart(canvas, { open, say }) {
  let data;
  try {
    data = await (await fetch("/explorer/points")).json();
  } catch {
    return say("The map can't be loaded.");
  }
  if (!canvas.isConnected) return;
  const tip = document.getElementById("tip");
  const places = [...document.querySelectorAll(".places a")].map((link) => ({
    x: Number(link.dataset.x), y: Number(link.dataset.y), rank: Number(link.dataset.rank), id: link.dataset.id,
    title: link.querySelector(".title").textContent, colour: Number(link.dataset.colour),
  }));
  const buttons = [...document.querySelectorAll(".legend button")];
  const named = new Map(buttons.map((button) => [button.dataset.colour, button.querySelector("bdi")?.textContent ?? "other"]));
  const points = data.id.map((id, n) => ({ id, title: data.title[n], colour: data.colour[n], x: data.x[n], y: data.y[n], rank: -1 }));
  const all = [...points, ...places.map((place) => ({ ...place }))];
  const span = (axis) => {
    const values = all.map((point) => point[axis]);
    const low = values.reduce((a, b) => Math.min(a, b), 0);
    const high = values.reduce((a, b) => Math.max(a, b), 0);
    return high > low ? [low, high] : [low - 1, high + 1];
  };
  const [[left, right], [bottom, top]] = [span("x"), span("y")];
  let width = 0, height = 0, active = null, only = new Set();

  function arrange() {
    const ratio = devicePixelRatio || 1;
    ({ width, height } = canvas.getBoundingClientRect());
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.getContext("2d").setTransform(ratio, 0, 0, ratio, 0, 0);
    for (const point of all) {
      point.px = EDGE + ((point.x - left) / (right - left)) * (width - 2 * EDGE);
      point.py = height - EDGE - ((point.y - bottom) / (top - bottom)) * (height - 2 * EDGE);
    }
    draw();
  }

  function shape(pen, point, size) {
    const { px, py } = point;
    pen.beginPath();
    const kind = point.colour % 4;
    if (kind === 0) pen.arc(px, py, size, 0, 7);
    else if (kind === 1) pen.rect(px - 0.88 * size, py - 0.88 * size, 1.76 * size, 1.76 * size);
    else if (kind === 2) {
      pen.moveTo(px, py - 1.15 * size);
      pen.lineTo(px + 1.1 * size, py + 0.8 * size);
      pen.lineTo(px - 1.1 * size, py + 0.8 * size);
      pen.closePath();
    } else {
      pen.moveTo(px, py - 1.3 * size);
      pen.lineTo(px + 1.3 * size, py);
      pen.lineTo(px, py + 1.3 * size);
      pen.lineTo(px - 1.3 * size, py);
      pen.closePath();
    }
  }

  function draw() {
    const style = getComputedStyle(canvas);
    const of = (name) => style.getPropertyValue(name).trim();
    const colour = (point) => of(`--c${point.colour}`);
    const pen = canvas.getContext("2d");
    const size = points.length > 1500 ? 2.6 : 3.4;
    pen.clearRect(0, 0, width, height);
    const colours = new Map([...new Set(all.map((point) => point.colour))].map((n) => [n, of(`--c${n}`)]));
    const marked = all.slice(points.length);
    for (const point of points) {
      const lit = !only.size || only.has(String(point.colour));
      pen.globalAlpha = lit ? (marked.length ? 0.4 : 0.75) : 0.08;
      pen.fillStyle = colours.get(point.colour);
      shape(pen, point, size);
      pen.fill();
    }
    pen.globalAlpha = 1;
    const [note, ...neighbours] = marked;
    pen.strokeStyle = of("--text");
    pen.lineWidth = 1;
    if (note) {
      pen.globalAlpha = 0.35;
      for (const { px, py } of neighbours) {
        pen.beginPath();
        pen.moveTo(note.px, note.py);
        pen.lineTo(px, py);
        pen.stroke();
      }
      pen.globalAlpha = 1;
    }
    pen.font = "600 11px system-ui, sans-serif";
    pen.textAlign = "center";
    for (const point of [...neighbours.reverse(), ...(note ? [note] : [])]) {
      shape(pen, point, point === note ? 8 : 5.5);
      pen.fillStyle = colour(point);
      pen.fill();
      pen.lineWidth = point === note ? 2.5 : 1.5;
      pen.stroke();
      if (point.rank) {
        pen.lineWidth = 3;
        pen.strokeStyle = of("--surface");
        pen.strokeText(point.rank, point.px, point.py - 9);
        pen.strokeStyle = of("--text");
        pen.fillStyle = of("--text");
        pen.fillText(point.rank, point.px, point.py - 9);
      }
    }
    if (active) {
      pen.beginPath();
      pen.arc(active.px, active.py, 9, 0, 7);
      pen.lineWidth = 2;
      pen.strokeStyle = of("--accent");
      pen.stroke();
    }
  }

  function show(point, speak = false) {
    if (point === active) return;
    active = point;
    tip.hidden = !point;
    canvas.classList.toggle("over", Boolean(point));
    if (point) {
      tip.querySelector("strong").textContent = point.title;
      const category = buttons.length ? named.get(String(point.colour)) ?? "other" : "";
      tip.querySelector("span").textContent = [category, point.id].filter(Boolean).join(" · ");
      const beside = point.px > width / 2;
      tip.style.left = beside ? "" : `${point.px + 14}px`;
      tip.style.right = beside ? `${width - point.px + 14}px` : "";
      tip.style.top = `${Math.max(4, Math.min(height - tip.offsetHeight - 4, point.py - tip.offsetHeight / 2))}px`;
      if (speak) say(`${point.title} ${category}`);
    }
    draw();
  }

  function nearest(event) {
    const { left: x0, top: y0 } = canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - x0, event.clientY - y0];
    let best = null, distance = REACH;
    for (const point of all) {
      if (only.size && !only.has(String(point.colour)) && point.rank < 0) continue;
      const away = Math.hypot(point.px - x, point.py - y) - (point.rank < 0 ? 0 : 4);
      if (away <= distance) [best, distance] = [point, away];
    }
    return best;
  }

  function step(dx, dy) {
    const from = active ?? all[points.length] ?? { px: width / 2, py: height / 2 };
    let best = null, cost = Infinity;
    for (const point of all) {
      const [x, y] = [point.px - from.px, point.py - from.py];
      const ahead = x * dx + y * dy;
      const aside = Math.abs(x * dy - y * dx);
      if (ahead <= 0.5 || aside > ahead || (only.size && !only.has(String(point.colour)))) continue;
      if (ahead + 2 * aside < cost) [best, cost] = [point, ahead + 2 * aside];
    }
    if (best) show(best, true);
  }

  canvas.addEventListener("pointermove", (event) => event.pointerType !== "touch" && show(nearest(event)));
  canvas.addEventListener("pointerleave", (event) => event.pointerType !== "touch" && show(null));
  canvas.addEventListener("click", (event) => {
    const point = nearest(event);
    // A finger can't hover: its first tap tells what is there, its second opens it.
    if (point && (event.pointerType !== "touch" || point === active)) open(point.id);
    else show(point, true);
  });
  canvas.addEventListener("blur", () => show(null));
  canvas.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (way) step(...way);
    else if (event.key === "Enter" && active) open(active.id);
    else if (event.key === "Escape") show(null);
    else return;
    event.preventDefault();
  });
  for (const button of buttons) {
    button.addEventListener("click", () => {
      const pressed = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(pressed));
      only[pressed ? "add" : "delete"](button.dataset.colour);
      draw();
    });
  }
  for (const link of document.querySelectorAll(".places a")) {
    const point = all.slice(points.length).find((place) => place.id === link.dataset.id);
    for (const event of ["pointerenter", "focus"]) link.addEventListener(event, () => show(point));
    for (const event of ["pointerleave", "blur"]) link.addEventListener(event, () => show(null));
  }
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  scheme.addEventListener("change", () => canvas.isConnected && draw());
  new ResizeObserver((_, observer) => (canvas.isConnected ? arrange() : observer.disconnect())).observe(canvas);
  canvas.dataset.ready = points.length;
}
