"use strict";
// All forms and all reading work without this file. It lets ages tick, says when the page is cut off, and keeps swaps from surprising a finger.
(() => {
  const root = document.documentElement, body = document.body;
  const $ = (what, where = document) => where.querySelector(what);
  const $$ = (what, where = document) => [...where.querySelectorAll(what)];
  root.classList.add("ticks");

  // The house's clock, not the phone's: a phone may be wrong by hours.
  let ahead = body.dataset.now ? Date.parse(body.dataset.now) - Date.now() : 0;
  const now = () => Date.now() + ahead;

  const age = (ms) => {
    const minutes = Math.floor(ms / 60000), hours = Math.floor(minutes / 60), days = Math.floor(hours / 24);
    return minutes < 1 ? "just now" : hours < 1 ? `${minutes} min ago` : days < 1 ? `${hours} h ago` : days === 1 ? "1 day ago" : `${days} days ago`;
  };
  const left = (ms) => {
    const seconds = Math.max(0, Math.ceil(ms / 1000)), minutes = Math.ceil(seconds / 60), hours = Math.floor(minutes / 60);
    return seconds < 100 ? `${seconds} s` : hours < 1 ? `${minutes} min` : minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  };
  const write = (element, text) => { if (element.textContent !== text) element.textContent = text; };
  const tick = () => {
    for (const time of $$("time[data-age]")) write(time, age(now() - Date.parse(time.dateTime)));
    for (const span of $$("[data-left]")) {
      write(span, span.dataset.before + left(Date.parse(span.dataset.left) - now()) + span.dataset.after);
      span.hidden = false;
    }
    for (const span of $$("[data-wait]")) {
      span.dataset.end ??= Date.now() + span.dataset.wait * 1000;
      const ms = span.dataset.end - Date.now();
      write(span, ms > 0 ? span.dataset.before + left(ms) + span.dataset.after : "You can try again now.");
    }
  };
  tick();
  setInterval(tick, 1000);

  // Cut off: no word from the house for longer than three of its heartbeats (10 s each). What is shown then is greyed and dated.
  const cut = $("#cut"), SILENCE = 35000;
  let heard = Date.now(), since = null;
  const asOf = (ms) => new Date(ms).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
  const alive = () => {
    heard = Date.now();
    if (since === null) return;
    since = null;
    delete root.dataset.link;
    cut.textContent = "";
  };
  const lost = () => {
    if (since !== null || root.dataset.link === "gone") return;
    since = heard;
    root.dataset.link = "cut";
    cut.textContent = `Cut off from the house. As of ${asOf(since + ahead)}. Trying again…`;
  };
  const gone = () => {
    root.dataset.link = "gone";
    cut.textContent = "";
    $("#gone").hidden = false;
    $("#main").textContent = "";
    $$(".top-state").forEach((pill) => pill.remove());
    document.title = "Signed out";
  };
  // The stream only says "no"; whether the house is away or the session is, this asks.
  let asking = false;
  const ask = async () => {
    if (asking || !cut || root.dataset.link === "gone") return;
    asking = true;
    try {
      const answer = await fetch("/", { method: "HEAD", redirect: "manual", cache: "no-store", signal: AbortSignal.timeout(5000) });
      if (answer.type === "opaqueredirect" || answer.status === 401) gone();
    } catch { lost(); }
    asking = false;
  };
  if (cut) {
    let waiting;
    body.addEventListener("htmx:sseOpen", () => { clearTimeout(waiting); alive(); });
    body.addEventListener("htmx:sseMessage", alive);
    body.addEventListener("htmx:sseError", () => {
      clearTimeout(waiting);
      waiting = setTimeout(lost, 2000);
      ask();
    });
    const check = () => { if (Date.now() - heard > SILENCE) { lost(); ask(); } };
    setInterval(check, 5000);
    // A phone taken out of the pocket shows what it showed hours ago.
    document.addEventListener("visibilitychange", () => { if (!document.hidden) check(); });
    addEventListener("offline", lost);
  }

  // A part that is replaced keeps what a person has open, and its button does nothing for a moment if it means something else now.
  let open = [], label = "";
  const word = () => $("#banner")?.dataset;
  let said = word()?.say;
  body.addEventListener("htmx:sseBeforeMessage", (event) => {
    open = $$("details[open][id]", event.target).map((details) => details.id);
    label = $("[data-guard]", event.target)?.textContent;
  });
  body.addEventListener("htmx:sseMessage", (event) => {
    if (event.target.id === "part-now") ahead = Date.parse(event.target.textContent.trim()) - Date.now() || ahead;
    for (const id of open) $(`#${CSS.escape(id)}`)?.setAttribute("open", "");
    const button = $("[data-guard]", event.target);
    if (button && label !== button.textContent) event.target.dataset.fresh = Date.now();
    const banner = word();
    if (banner && banner.say !== said) {
      said = banner.say;
      $("#say").textContent = said;
      document.title = `${banner.word} · ${body.dataset.title}`;
    }
    tick();
  });
  document.addEventListener("submit", (event) => {
    const fresh = event.target.closest("[data-fresh]")?.dataset.fresh;
    if (fresh && Date.now() - fresh < 700) event.preventDefault();
  }, true);
  for (const name of ["htmx:responseError", "htmx:sendError"]) body.addEventListener(name, (event) => {
    ask();
    const row = event.target.closest?.(".event");
    if (row) letGo(row);
    $("#say").textContent = "That did not work. Reload the page and try again.";
    $("#say").className = "notice notice-bad";
  });

  // An event that is swiped aside is seen: its tick is pressed. One that is let go too early springs back.
  let swipe = null, swiped = 0;
  const put = (row, x) => {
    row.style.transform = x ? `translateX(${x}px)` : "";
    row.style.opacity = x ? Math.max(0, 1 - Math.abs(x) / row.offsetWidth) : "";
  };
  const letGo = (row) => {
    row.style.transition = "";
    row.classList.remove("far");
    put(row, 0);
  };
  // By its id: its list may be replaced under the finger.
  const inHand = () => swipe && document.getElementById(swipe.id);
  const far = (row) => Math.abs(swipe.by) > Math.min(row.offsetWidth / 3, 140);
  document.addEventListener("pointerdown", (event) => {
    const row = event.pointerType !== "mouse" && event.isPrimary && event.target.closest(".event:has(form)");
    swipe = row ? { id: row.id, from: event.clientX, by: 0 } : null;
  });
  document.addEventListener("pointermove", (event) => {
    const row = event.isPrimary && inHand();
    // A tap trembles.
    if (!row || !swipe.by && Math.abs(event.clientX - swipe.from) < 12) return;
    swipe.by = event.clientX - swipe.from;
    row.style.transition = "none";
    row.classList.add("swiped");
    row.classList.toggle("far", far(row));
    put(row, swipe.by);
  });
  document.addEventListener("pointerup", (event) => {
    const row = event.isPrimary && inHand();
    if (!row || !swipe.by) return;
    swiped = event.timeStamp;
    letGo(row);
    const form = far(row) && $("form", row);
    // Gone before the house has answered, where it is to go.
    if (form && form.getAttribute("hx-target") !== "this") put(row, Math.sign(swipe.by) * row.offsetWidth);
    if (form) form.requestSubmit();
    swipe = null;
  });
  // The page scrolls instead.
  document.addEventListener("pointercancel", () => {
    if (inHand()) letGo(inHand());
    swipe = null;
  });
  document.addEventListener("click", (event) => { if (swiped && event.timeStamp - swiped < 300) event.preventDefault(); }, true);

  // A menu closes by Escape and by a press beside it.
  const menus = () => $$("details.menu[open], details.more[open]");
  document.addEventListener("click", (event) => menus().forEach((menu) => { if (!menu.contains(event.target)) menu.open = false; }));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") menus().forEach((menu) => { menu.open = false; $("summary", menu).focus(); });
  });

  // Filters act at once.
  for (const form of $$("form[data-at-once]")) {
    form.addEventListener("change", () => form.requestSubmit());
    $("button", form).hidden = true;
  }

  if (navigator.clipboard) document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    await navigator.clipboard.writeText($(`#${button.dataset.copy}`).textContent);
    $("use", button).setAttribute("href", $("use", button).getAttribute("href").replace(/#.*/, "#check"));
    $("#say").textContent = "Copied";
  });
  const showCopies = () => { if (navigator.clipboard) $$("[data-copy]").forEach((button) => { button.hidden = false; }); };
  showCopies();
  body.addEventListener("htmx:sseMessage", showCopies);

  // Still pictures: a new one each second, only those in sight of somebody, never two of one camera under way.
  const inSight = new Set();
  const eye = new IntersectionObserver((entries) => entries.forEach((entry) => inSight[entry.isIntersecting ? "add" : "delete"](entry.target)));
  const look = () => {
    inSight.forEach((img) => { if (!img.isConnected) inSight.delete(img); });
    for (const img of $$("img[data-live]")) eye.observe(img);
  };
  look();
  body.addEventListener("htmx:sseMessage", look);
  setInterval(() => {
    if (document.hidden || root.dataset.link) return;
    for (const img of inSight) {
      if (img.dataset.busy) continue;
      const next = new Image();
      img.dataset.busy = "1";
      next.onload = () => { img.src = next.src; delete img.dataset.busy; img.closest("figure").classList.remove("stale"); };
      next.onerror = () => { setTimeout(() => delete img.dataset.busy, 5000); img.closest("figure").classList.add("stale"); };
      next.src = `${img.dataset.live}${img.dataset.live.includes("?") ? "&" : "?"}t=${Date.now()}`;
    }
  }, 1000);
})();
