// Updates an open page: fetches it again every few seconds and replaces the parts that changed.
// The pages work without this file. Nothing here makes HTML from texts.
(() => {
  "use strict";

  const IDLE = 2000;    // milliseconds without a key, a pointer or a scroll, after which a part may change
  const SLOWEST = 60;   // seconds between two checks while the exporter does not answer
  const UNITS = [[86400, "d"], [3600, "h"], [60, "m"], [1, "s"]];

  const main = document.querySelector("main");
  const every = Number(main.dataset.refresh);
  const button = document.getElementById("live");
  const word = document.getElementById("live-word");
  const announcement = document.getElementById("announcement");
  let skew = 0;          // seconds by which the exporter's clock is ahead of this one
  let touched = 0;
  let wait = every;
  let running = true;
  let timer = 0;

  const seconds = (time) => Date.parse(time.dateTime) / 1000;

  function age(at, now) {
    const far = Math.abs(now - at);
    if (far < 1) return "now";
    const [size, letter] = UNITS.find(([size]) => far >= size);
    const text = Math.floor(far / size) + letter;
    return at <= now ? text + " ago" : "in " + text;
  }

  function readClock(page) {
    const asOf = page.getElementById("as-of");
    if (asOf) skew = seconds(asOf) - Date.now() / 1000;
  }

  function updateAges() {
    const now = Date.now() / 1000 + skew;
    for (const time of document.querySelectorAll("time[data-age]")) {
      const text = age(seconds(time), now);
      if (time.textContent !== text) time.textContent = text;
    }
  }

  // A part without its ages, which always differ, and without what the reader opened.
  function comparable(part) {
    const copy = part.cloneNode(true);
    for (const time of copy.querySelectorAll("time[data-age]")) time.textContent = "";
    for (const details of copy.querySelectorAll("details")) details.open = false;
    return copy.outerHTML;
  }

  function busy() {
    const active = document.activeElement;
    const selection = document.getSelection();
    return Date.now() - touched < IDLE
      || (selection && !selection.isCollapsed)
      || (active && active.matches("[data-live] input, [data-live] select"));
  }

  // Remembers where the reader is: the focused link, else the first visible one. Returns a function that goes back there.
  function rememberPlace() {
    const active = document.activeElement;
    const links = [...main.querySelectorAll("[data-live] a[href]")];
    const focused = active && active.closest("[data-live]") ? active : null;
    const seen = focused || links.find((link) => link.getBoundingClientRect().top >= 0);
    if (!seen) return () => {};
    const same = (link) => link.getAttribute("href") === seen.getAttribute("href") && link.textContent === seen.textContent;
    const find = seen.id ? () => document.getElementById(seen.id)
      : seen.matches("a[href]") ? () => [...main.querySelectorAll("[data-live] a[href]")].find(same)
      : seen.matches("summary") ? ((id) => () => document.querySelector(`#${CSS.escape(id)} > summary`))(seen.parentNode.id)
      : () => seen.getAttribute("aria-labelledby") && main.querySelector(`[aria-labelledby="${seen.getAttribute("aria-labelledby")}"][tabindex]`);
    const top = seen.getBoundingClientRect().top;
    return () => {
      const again = seen.isConnected ? seen : find();
      if (!again) return;
      if (focused && document.activeElement !== again) again.focus({preventScroll: true});
      if (window.scrollY > 0) window.scrollBy(0, again.getBoundingClientRect().top - top);
    };
  }

  function update(page) {
    const summary = document.getElementById("summary")?.textContent;
    const verdict = document.getElementById("verdict")?.textContent;
    const goBack = rememberPlace();
    const opened = [...document.querySelectorAll("details[open][id]")].map((details) => details.id);
    for (const part of main.querySelectorAll("[data-live]")) {
      const fresh = page.getElementById(part.id);
      if (!fresh || comparable(fresh) === comparable(part)) continue;
      const sideways = part.querySelector(".scroll")?.scrollLeft;
      part.replaceWith(document.adoptNode(fresh));
      if (sideways) fresh.querySelector(".scroll")?.scrollTo({left: sideways});
    }
    for (const id of opened) document.getElementById(id)?.setAttribute("open", "");
    goBack();
    document.title = page.title;
    const now = [document.getElementById("verdict")?.textContent, document.getElementById("summary")?.textContent];
    if (now[0] !== verdict || now[1] !== summary) announcement.textContent = now.filter(Boolean).join(". ");
  }

  async function check() {
    const answer = await fetch(location.href, {
      cache: "no-store",
      signal: AbortSignal.timeout(15000),
    });
    if (!answer.ok) throw new Error(answer.status);
    const text = await answer.text();
    if (busy() || document.hidden || !running) return; // the next check fetches it again
    const page = new DOMParser().parseFromString(text, "text/html");
    if (!page.querySelector("main[data-refresh]")) return;
    readClock(page);
    update(page);
  }

  async function cycle() {
    if (!document.hidden && running && !busy()) {
      try {
        await check();
        wait = every;
        showState();
      } catch {
        wait = Math.min(wait * 2, SLOWEST);
        showState("No answer");
      }
    }
    schedule();
  }

  function schedule() {
    clearTimeout(timer);
    timer = setTimeout(cycle, wait * 1000);
  }

  function showState(error) {
    const text = !running ? "Paused" : error || "Live";
    if (word.textContent !== text) word.textContent = text;
    button.setAttribute("aria-pressed", String(running));
    button.classList.toggle("error", Boolean(error) && running);
  }

  // Shows the output of a step below its button; if that fails, opens its own page.
  async function showOutput(link) {
    const place = document.getElementById("output");
    place.setAttribute("aria-busy", "true");
    try {
      const answer = await fetch(link.href, {cache: "no-store"});
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const shown = page.getElementById("answer");
      if (!shown) throw new Error("no answer");
      place.replaceChildren(document.adoptNode(shown));
      showEnds(place);
      place.querySelector("#answer-title").focus({preventScroll: true});
      place.scrollIntoView({block: "nearest"});
    } catch {
      location.href = link.href;
    }
    place.removeAttribute("aria-busy");
  }

  // The end of a long output is the interesting part.
  function showEnds(place) {
    for (const output of place.querySelectorAll(".output")) output.scrollTop = output.scrollHeight;
  }

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-output]");
    if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    showOutput(link);
  });
  showEnds(main);
  readClock(document);
  setInterval(updateAges, 5000);
  if (!every || !button) return;

  for (const kind of ["keydown", "pointerdown", "wheel", "touchmove"]) {
    addEventListener(kind, () => { touched = Date.now(); }, {passive: true});
  }
  document.addEventListener("visibilitychange", () => { if (!document.hidden) { updateAges(); cycle(); } });
  button.hidden = false;
  button.addEventListener("click", () => { running = !running; wait = every; showState(); if (running) { touched = 0; cycle(); } });
  schedule();
})();
