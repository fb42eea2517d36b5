// The explorer's script: walks from page to page without a flash, suggests notes, and sends new ones.
// Pages work without it. Text of notes is put in place by the server, escaped, or here as textContent, never as HTML.

import { chart } from "./map.js";

const VIEWS = new Set(["/", "/map", "/try", "/evaluation"]);
const USUAL = { candidates: "all", diversity: "0", category: "", note: "" };
const byId = (id) => document.getElementById(id);
let visiting = new AbortController();

// --- walking -------------------------------------------------------------------------------------------------------------

export async function visit(url, { push = true, keep = null, y = 0 } = {}) {
  visiting.abort();
  visiting = new AbortController();
  const { signal } = visiting;
  byId("main").setAttribute("aria-busy", "true");
  let answer, page;
  try {
    answer = await fetch(url, { signal, headers: { accept: "text/html" } });
    page = parsed(await answer.text());
  } catch (error) {
    if (error.name === "AbortError") return;
    byId("main").removeAttribute("aria-busy");
    say("The service doesn't answer.");
    byId("main").prepend(problem("The service doesn't answer. Is it still running?"));
    return;
  }
  if (signal.aborted) return;
  if (!page.getElementById("main")) return location.assign(url);
  if (push) {
    history.replaceState({ y: scrollY }, "");
    history.pushState({}, "", answer.url);
  }
  const folded = document.querySelector(".folded");
  const open = folded?.open;
  document.title = page.title;
  for (const part of ["main", "nav.tabs", "footer.facts"]) {
    document.querySelector(part).replaceWith(document.adoptNode(page.querySelector(part)));
  }
  if (folded && document.querySelector(".folded")) document.querySelector(".folded").open = open;
  byId("q").value = new URL(answer.url).searchParams.get("q") ?? "";
  ready();
  const kept = keep && byId("main").querySelector(keep);
  (kept || byId("main")).focus({ preventScroll: true });
  if (!kept) scrollTo(0, y);
  say(byId("main").querySelector("[data-says]")?.textContent ?? document.title);
}

function parsed(text) {
  return new DOMParser().parseFromString(text, "text/html");
}

function say(text) {
  byId("says").textContent = text.replace(/\s+/g, " ").trim();
}

function problem(text) {
  const box = document.createElement("div");
  box.className = "problem";
  box.setAttribute("role", "alert");
  box.append(Object.assign(document.createElement("p"), { textContent: text }));
  return box;
}

// The address of a note that keeps how neighbours are chosen now.
export function addressOf(id) {
  const here = new URL(location.href);
  const params = new URLSearchParams(VIEWS.has(here.pathname) ? here.search : "");
  for (const name of ["q", "seed"]) params.delete(name);
  params.set("note", id);
  return `/?${params}`;
}

function addressOfForm(form) {
  const params = new URLSearchParams();
  for (const [name, value] of new FormData(form)) {
    const usual = form.elements[name]?.dataset?.usual ?? USUAL[name];
    if (typeof value === "string" && usual !== value) params.append(name, value);
  }
  return `${new URL(form.action).pathname}?${params}`;
}

document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href]");
  if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  const url = new URL(link.href);
  if (url.origin !== location.origin || !VIEWS.has(url.pathname) || url.hash) return;
  event.preventDefault();
  visit(url.href);
});

addEventListener("popstate", (event) => visit(location.href, { push: false, y: event.state?.y ?? 0 }));
history.scrollRestoration = "manual";

document.addEventListener("change", (event) => {
  const form = event.target.form;
  if (!form?.matches("form[data-live]")) return;
  const { name, type, value } = event.target;
  visit(addressOfForm(form), { keep: type === "radio" ? `[name="${name}"][value="${value}"]` : `[name="${name}"]` });
});

document.addEventListener("input", (event) => {
  if (event.target.id !== "diversity") return;
  event.target.closest(".field").querySelector("output").textContent = Number(event.target.value).toFixed(1);
});

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.matches(".search, form[data-live]")) {
    event.preventDefault();
    close();
    visit(addressOfForm(form));
  } else if (form.id === "draft") {
    event.preventDefault();
    send(form, "/explorer/try", byId("tried"), form.querySelector("[type=submit]"));
  }
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.target.closest?.("input, textarea, select")) return;
  event.preventDefault();
  byId("q").focus();
});

// --- the search box ------------------------------------------------------------------------------------------------------

const box = byId("q");
const list = byId("suggestions");
let timer = 0;
let asked = 0;
let active = -1;

function close() {
  clearTimeout(timer);
  asked += 1;
  list.hidden = true;
  active = -1;
  box.setAttribute("aria-expanded", "false");
  box.removeAttribute("aria-activedescendant");
}

async function suggest() {
  const number = ++asked;
  const text = box.value.trim();
  if (!text) return close();
  let notes;
  try {
    notes = (await (await fetch(`/explorer/suggest?${new URLSearchParams({ q: text })}`)).json()).notes;
  } catch {
    return close();
  }
  if (number !== asked || document.activeElement !== box) return;
  list.replaceChildren(...notes.map(option));
  if (!notes.length) {
    list.append(Object.assign(document.createElement("li"), { className: "nothing", textContent: "No title, hashtag or id has all of this." }));
  }
  list.hidden = false;
  active = -1;
  box.setAttribute("aria-expanded", String(notes.length > 0));
  box.removeAttribute("aria-activedescendant");
  say(notes.length ? `${notes.length} notes found` : "no note found");
}

function option(note, place) {
  const item = document.createElement("li");
  item.id = `option-${place}`;
  item.role = "option";
  item.dataset.id = note.note_id;
  for (const [kind, text] of [["title", note.title], ["category", note.category], ["id", note.note_id]]) {
    const part = document.createElement("span");
    part.className = kind;
    part.dir = "auto";
    part.textContent = text;
    item.append(part);
  }
  return item;
}

function choose(item) {
  close();
  box.value = "";
  visit(addressOf(item.dataset.id));
}

box.addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(suggest, 120);
});
box.addEventListener("blur", close);
list.addEventListener("pointerdown", (event) => event.preventDefault());
list.addEventListener("click", (event) => {
  const item = event.target.closest("[data-id]");
  if (item) choose(item);
});
box.addEventListener("keydown", (event) => {
  const items = [...list.querySelectorAll("[data-id]")];
  if (event.key === "Escape") {
    if (!list.hidden) event.preventDefault();
    return close();
  }
  if (list.hidden || !items.length || event.isComposing) return;
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    const step = event.key === "ArrowDown" ? 1 : -1;
    active = active < 0 && step < 0 ? items.length - 1 : (active + step + items.length) % items.length;
    items.forEach((item, place) => item.setAttribute("aria-selected", String(place === active)));
    box.setAttribute("aria-activedescendant", items[active].id);
    items[active].scrollIntoView({ block: "nearest" });
  } else if (event.key === "Enter" && active >= 0) {
    event.preventDefault();
    choose(items[active]);
  }
});

// --- a new note ----------------------------------------------------------------------------------------------------------

async function base64(file) {
  const url = await new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => failed(reader.error);
    reader.readAsDataURL(file);
  });
  return url.slice(url.indexOf(",") + 1);
}

async function noteOf(form) {
  const tags = form.elements.hashtags.value.split(/[\s,]+/).map((tag) => tag.replace(/^#+/, "")).filter(Boolean);
  const files = [...form.elements.images.files];
  const { maxImages, maxBytes } = form.dataset;
  if (files.length > maxImages) throw new Error(`${files.length} pictures; at most ${maxImages} can be sent.`);
  const large = files.find((file) => file.size > maxBytes);
  if (large) throw new Error(`${large.name} is larger than ${Math.floor(maxBytes / 1e6)} MB.`);
  return {
    title: form.elements.title.value || null,
    content: form.elements.content.value || null,
    hashtags: tags,
    images: await Promise.all(files.map(base64)),
  };
}

async function send(form, path, into, button, more = {}) {
  const note = { ...more };
  button.disabled = true;
  into.setAttribute("aria-busy", "true");
  try {
    Object.assign(note, await noteOf(form));
    if (path === "/explorer/try") {
      const names = ["k", "candidates", "category", "diversity", "author", "reposts"];
      const given = [...new FormData(form)].filter(([name]) => names.includes(name));
      note.choice = Object.fromEntries(given);
    }
    const answer = await fetch(path, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(note),
    });
    if (answer.headers.get("content-type")?.startsWith("text/html")) {
      into.replaceChildren(...document.adoptNode(parsed(await answer.text()).body).childNodes);
    } else {
      const { error } = await answer.json();
      into.replaceChildren(problem(error?.message ?? `The service answers ${answer.status}.`));
    }
  } catch (error) {
    into.replaceChildren(problem(error instanceof TypeError ? "The service doesn't answer." : error.message));
  } finally {
    button.disabled = false;
    into.removeAttribute("aria-busy");
  }
  say(into.querySelector("[data-says]")?.textContent ?? into.textContent);
}

async function preview(form) {
  const shown = await Promise.all(
    [...form.elements.images.files].map(async (file) => {
      try {
        const bitmap = await createImageBitmap(file);
        const scale = Math.min(1, 160 / Math.max(bitmap.width, bitmap.height));
        const canvas = document.createElement("canvas");
        canvas.width = Math.max(1, Math.round(bitmap.width * scale));
        canvas.height = Math.max(1, Math.round(bitmap.height * scale));
        canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
        canvas.role = "img";
        canvas.ariaLabel = file.name;
        return canvas;
      } catch {
        return Object.assign(document.createElement("span"), { className: "muted", textContent: `${file.name}: no preview` });
      }
    }),
  );
  byId("previews").replaceChildren(...shown);
}

// --- what each page needs ------------------------------------------------------------------------------------------------

function ready() {
  const draft = byId("draft");
  if (draft) {
    draft.elements.images.addEventListener("change", () => preview(draft));
    byId("write").addEventListener("click", (event) => send(draft, "/explorer/write", byId("written"), event.currentTarget));
  }
  const canvas = byId("map");
  if (canvas) chart(canvas, { open: (id) => visit(addressOf(id)), say });
  const folded = document.querySelector(".folded");
  if (folded && matchMedia("(max-width: 60rem)").matches && !folded.dataset.seen) folded.open = false;
}

ready();
