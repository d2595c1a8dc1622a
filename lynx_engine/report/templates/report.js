"use strict";
// Reads the rows as data and only ever writes them as text: no markup is made of them.
// Short keys of a row: id; s status; n numbers of subject, prompt name, seed, variant; p prompt;
// d details by section; do commands; t seconds by stage; a attempts; c clip; i poster; k code;
// m message; e error output; w what to do; o older; b clip of an earlier attempt; l likeness; h threshold; x likeness over time.
(() => {
  const $ = (selector, within = document) => within.querySelector(selector);
  const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];
  const data = JSON.parse($("#data").textContent);
  const text = (number) => (number === undefined ? "" : data.texts[number]);
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const rows = data.rows.map((row) => {
    const [subject, prompt, seed, variant] = row.n.map(text);
    const code = row.k ?? "";
    const words = [subject, prompt, `s${seed}`, variant, row.id, code, data.words[row.s],
      text(row.m), text(row.p)].join("\n").toLowerCase();
    return { ...row, subject, prompt, seed, variant, code, words };
  });
  const byId = new Map(rows.map((row) => [row.id, row]));
  const cards = new Map($$("[data-card]").map((card) => [card.dataset.card, card]));
  const groups = $("[data-groups]");

  // Elements are made here alone. Addresses come from the packed rows: relative and escaped.
  const make = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
  const draw = (tag, attributes = {}, ...children) =>
    fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
  const fill = (element, attributes, children) => {
    for (const [name, value] of Object.entries(attributes)) {
      if (value === false || value === undefined) continue;
      if (name === "click") element.addEventListener("click", value);
      else element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null && child !== ""));
    return element;
  };
  const icon = (name) => draw("svg", { class: "icon", "aria-hidden": "true" }, draw("use", { href: `#i-${name}` }));
  // What stands between backticks is code.
  const ticked = (words) => words.split("`").map((part, at) => (at % 2 ? make("code", {}, part) : part));
  const say = (words) => { $("[data-said]").textContent = words; };
  const video = (row, attributes) => {
    const element = make("video", { src: row.c, poster: row.i, playsinline: true, preload: "none", ...attributes });
    element.muted = true;
    return element;
  };
  const drop = (element) => { element.pause(); element.removeAttribute("src"); element.load(); element.remove(); };
  const play = (element) => element.play().catch(() => {});
  const title = (row) => `${row.subject} · ${row.prompt} · ${row.variant} · seed ${row.seed}`;
  const count = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;

  // What is filtered and how it is grouped; it stands in the address, so that a view can be kept.
  const FILTERS = ["status", "subject", "variant", "code"];
  const start = new URLSearchParams(location.hash.slice(1));
  const state = { group: start.get("group") ?? "status", q: start.get("q") ?? "", older: start.has("older"),
    open: start.get("open") ?? "" };
  for (const name of FILTERS) state[name] = start.get(name) ?? "";
  const valueOf = (row, name) => (name === "status" ? row.s : row[name]);

  const keep = () => {
    const now = new URLSearchParams();
    for (const name of [...FILTERS, "q", "open"]) if (state[name]) now.set(name, state[name]);
    if (state.group !== "status") now.set("group", state.group);
    if (state.older) now.set("older", "1");
    const hash = now.toString();
    try { history.replaceState(null, "", hash ? `#${hash}` : "#"); } catch { /* a view only */ }
  };
  const matches = (row) => (state.older || !row.o) &&
    FILTERS.every((name) => !state[name] || valueOf(row, name) === state[name]) &&
    (!state.q || state.q.toLowerCase().split(/\s+/).every((word) => row.words.includes(word)));

  const apply = () => {
    let shown = 0;
    for (const row of rows) {
      const isShown = matches(row);
      const card = cards.get(row.id);
      if (card.hidden === isShown) card.hidden = !isShown;
      shown += isShown;
    }
    for (const section of groups.children) {
      const there = $$("[data-card]:not([hidden])", section).length;
      section.hidden = there === 0;
      $("h2 small", section).textContent = there;
    }
    const all = rows.filter((row) => state.older || !row.o).length;
    $("[data-count]").textContent = shown === all ? count(all, "row") : `${shown} of ${count(all, "row")}`;
    $("[data-empty]").hidden = shown > 0 || rows.length === 0;
    const isFiltered = state.q || FILTERS.some((name) => state[name]);
    $("[data-clear]").hidden = !isFiltered;
    for (const button of $$("[data-set]"))
      button.setAttribute("aria-pressed", String(state[button.dataset.set] === button.dataset.value));
    for (const select of $$("[data-filter]")) select.value = state[select.dataset.filter];
    keep();
  };
  const URGENCY = data.order;
  const natural = new Intl.Collator("en", { numeric: true });
  const regroup = () => {
    const found = new Map();
    const isStatus = state.group === "status";
    for (const row of rows) {
      const name = isStatus ? (row.o ? "older" : row.s) : row[state.group];
      if (!found.has(name)) found.set(name, []);
      found.get(name).push(cards.get(row.id));
    }
    const rank = (name) => (name === "older" ? URGENCY.length : URGENCY.indexOf(name));
    const names = [...found.keys()].sort(isStatus ? (a, b) => rank(a) - rank(b) : natural.compare);
    const head = (name) => {
      if (isStatus) return name === "older" ? "Older requests" : data.words[name][0].toUpperCase() + data.words[name].slice(1);
      return state.group === "seed" ? `Seed ${name}` : name;
    };
    groups.replaceChildren(...names.map((name) =>
      make("section", { class: "group" }, make("h2", {}, `${head(name)} `, make("small")),
        make("ol", { class: "cards" }, ...found.get(name)))));
  };

  // Clips play one at a time: on hover, on keyboard focus, on a finger's first tap.
  let playing = null;
  const halt = () => { if (playing) { clearTimeout(playing.timer); if (playing.video) drop(playing.video); playing = null; } };
  const begin = (card, wait) => {
    if (playing && playing.card === card) return;
    halt();
    const row = byId.get(card.dataset.card);
    if (!row || !row.c) return;
    const now = { card, video: null };
    now.timer = setTimeout(() => {
      now.video = video(row, { loop: true, poster: undefined, "aria-hidden": "true" });
      $(".shot", card).append(now.video);
      play(now.video);
    }, wait);
    playing = now;
  };
  groups.addEventListener("pointerover", (event) => {
    const card = event.target.closest("[data-card]");
    if (event.pointerType !== "touch" && !still.matches && card) begin(card, 90);
  });
  groups.addEventListener("pointerout", (event) => {
    if (event.pointerType === "touch" || !playing) return;
    if (!playing.card.contains(event.relatedTarget)) halt();
  });
  groups.addEventListener("focusin", (event) => {
    if (event.target.matches("[data-open]:focus-visible") && !still.matches)
      begin(event.target.closest("[data-card]"), 0);
  });
  groups.addEventListener("focusout", (event) => { if (event.target.matches("[data-open]")) halt(); });
  groups.addEventListener("click", (event) => {
    const link = event.target.closest("[data-open]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const card = link.closest("[data-card]");
    const row = byId.get(card.dataset.card);
    if (event.pointerType === "touch" && !still.matches && row.c && playing?.card !== card) begin(card, 0);
    else open(row, link);
  });
  const visibleLinks = () => $$("[data-card]:not([hidden]) [data-open]", groups);
  groups.addEventListener("keydown", (event) => {
    const step = { j: 1, ArrowRight: 1, k: -1, ArrowLeft: -1 }[event.key];
    if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
    const links = visibleLinks();
    const next = links[links.indexOf(event.target.closest("[data-card]")?.querySelector("[data-open]")) + step];
    if (next) { event.preventDefault(); next.focus(); }
  });

  // Copying: the clipboard where the browser allows it, else the text is selected and copied.
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const code = button.previousElementSibling;
    let done = true;
    try { await navigator.clipboard.writeText(code.textContent); } catch {
      getSelection().selectAllChildren(code);
      done = document.execCommand("copy");
    }
    button.textContent = done ? "Copied" : "Selected";
    say(done ? "Copied" : "Selected, copy it by hand");
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  const copyable = (command) => make("span", { class: "copy" }, make("code", {}, command),
    make("button", { type: "button", "data-copy": true }, "Copy"));

  // The drawer: everything that is recorded of one row.
  const drawer = $("[data-drawer]");
  let opener = null;
  const part = (name, ...children) => (children.length ? make("section", {}, make("h3", {}, name), ...children) : null);
  const facts = (pairs) => make("dl", { class: "facts" },
    ...pairs.flatMap(([label, words]) => [make("dt", {}, label), make("dd", {}, words)]));
  const open = (row, from) => {
    halt();
    if (from !== undefined) opener = from;
    const old = $("video", drawer);
    if (old) drop(old);
    const links = visibleLinks().map((link) => link.closest("[data-card]").dataset.card);
    const at = links.indexOf(row.id);
    const go = (step, word) => make("button", { type: "button", "data-step": step, disabled: !links[at + step] || at < 0,
      click: () => open(byId.get(links[at + step])) }, word);
    drawer.replaceChildren(
      make("div", { class: "bar" }, make("h2", { id: "drawer-title" }, title(row)), go(-1, "Previous"), go(1, "Next"),
        make("button", { type: "button", "data-close": true, autofocus: true, click: () => drawer.close() }, "Close")),
      make("div", { class: "body" }, ...bodyOf(row).filter((one) => one !== null)));
    drawer.scrollTop = 0;
    if (!drawer.open) drawer.showModal();
    const player = $("video", drawer);
    if (player && !still.matches) play(player);
    state.open = row.id.slice(0, 12);
    keep();
  };
  const bodyOf = (row) => {
    const photo = data.photos.find(([name]) => name === row.subject);
    const badge = make("p", { class: row.s }, icon(row.s), " ", make("b", {}, data.words[row.s]),
      row.o ? " · an older request" : "", row.b ? " · the clip is an earlier attempt's" : "");
    const reason = row.m !== undefined || row.w !== undefined
      ? make("div", { class: `says ${row.s}` }, make("b", {}, row.code || data.words[row.s]),
        row.m === undefined ? "" : make("p", {}, text(row.m)), row.w === undefined ? "" : make("p", {}, make("b", {}, "What to do: "), ...ticked(text(row.w))))
      : null;
    return [
      row.c ? video(row, { class: "player", controls: true, loop: true, "aria-label": `Clip: ${title(row)}` })
        : make("div", { class: `tile ${row.s}` }, icon(row.s), make("b", {}, data.words[row.s]), make("span", { class: "soft" }, "no clip to show")),
      row.c || row.o ? badge : null,
      reason,
      make("section", { class: "with-photo" },
        photo ? make("img", { src: photo[1], alt: `Photo of ${row.subject}`, width: 160, height: 160 }) : "",
        make("div", {}, make("h3", {}, "Prompt"), make("p", { class: "prompt" }, text(row.p)))),
      part("Commands", make("div", { class: "commands" }, ...row.do.map(([word, command]) =>
        make("div", {}, make("span", { class: "soft" }, text(word)), copyable(text(command)))))),
      make("p", {}, make("button", { type: "button", "data-side-of": true, click: () => compareCell(row) },
        "Variants and seeds side by side"),
        " ", row.c ? make("a", { href: row.c, target: "_blank", rel: "noopener" }, "Open the clip's file") : ""),
      row.e === undefined ? null : part("Last lines the program wrote", make("pre", { tabindex: "0", "data-stderr": true }, text(row.e))),
      row.x ? part("Likeness over time", ...likenessOf(row)) : null,
      row.t.some((seconds) => seconds > 0) ? part("Time by stage", timesOf(row)) : null,
      ...data.sections.map(([name, labels], number) => {
        const pairs = labels.map((label, at) => [label, text(row.d[number][at])]).filter(([, words]) => words);
        return pairs.length ? part(name, facts(pairs)) : null;
      }),
      part(count(row.a.length, "attempt"), make("ol", { "data-attempts": true }, ...row.a.map(([status, code, when, seconds, seed, message]) =>
        make("li", {}, make("b", {}, [data.words[status], text(code)].filter(Boolean).join(", ")),
          ` · ${when} UTC · ${seconds} s · seed ${text(seed)}`, text(message) ? make("span", { class: "soft" }, ` · ${text(message)}`) : "")))),
    ];
  };
  const likenessOf = (row) => {
    const seen = row.x.filter(([, score]) => score !== null);
    const values = [...seen.map(([, score]) => score), ...(row.h === undefined ? [] : [row.h])];
    const low = Math.min(...values, 1) - 0.05, high = Math.max(...values, 0) + 0.05;
    const end = row.x.at(-1)[0] || 1;
    const x = (at) => 44 + (at / end) * 420, y = (score) => 10 + ((high - score) / (high - low)) * 120;
    let path = "", isOn = false;
    for (const [at, score] of row.x) {
      if (score !== null) path += `${isOn ? "L" : "M"}${x(at).toFixed(1)} ${y(score).toFixed(1)}`;
      isOn = score !== null;
    }
    const gone = row.x.filter(([, score]) => score === null).map(([at]) => `M${x(at).toFixed(1)} 134h0`).join("");
    const dots = seen.map(([at, score]) => `M${x(at).toFixed(1)} ${y(score).toFixed(1)}h0`).join("");
    const words = `From ${seen.length ? Math.min(...seen.map(([, s]) => s)) : "none"} to ${seen.length ? Math.max(...seen.map(([, s]) => s)) : "none"} over ${end} seconds.`;
    const mark = (value) => [draw("path", { class: "grid", d: `M44 ${y(value)}H464` }),
      draw("text", { class: "tick", x: 22, y: y(value) + 4 }, value.toFixed(2))];
    return [draw("svg", { class: "chart", viewBox: "0 0 480 160", role: "img", "data-scores": true, "aria-label": `Likeness over time. ${words}` },
      draw("title", {}, "Likeness over time"), draw("desc", {}, words),
      ...mark(low + 0.05), ...mark(high - 0.05),
      row.h === undefined ? "" : draw("path", { class: "threshold", d: `M44 ${y(row.h)}H464` }),
      draw("path", { class: "line", d: path }), draw("path", { class: "dots", d: dots }), draw("path", { class: "faceless", d: gone }),
      draw("text", { class: "tick", x: 44, y: 154 }, "0 s"), draw("text", { class: "tick", x: 452, y: 154 }, `${end} s`)),
    make("p", { class: "soft" }, [row.h === undefined ? "" : `Dashed: one person from ${row.h} on.`, gone ? "Red points: no face seen." : ""].join(" ")),
    make("details", {}, make("summary", {}, "As a table"), make("table", {}, make("thead", {}, make("tr", {},
      make("th", { scope: "col" }, "second"), make("th", { scope: "col" }, "likeness"))), make("tbody", {}, ...row.x.map(([at, score]) =>
      make("tr", {}, make("td", {}, String(at)), make("td", {}, score === null ? "no face" : String(score)))))))];
  };
  const timesOf = (row) => {
    const most = Math.max(...row.t);
    return make("div", { class: "times" }, ...data.stages.flatMap((stage, at) => (row.t[at] > 0 ? [
      make("span", {}, stage),
      draw("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
        draw("rect", { class: `stage ${stage}`, width: Math.max((row.t[at] / most) * 100, 0.5), height: 10 })),
      make("span", {}, `${row.t[at]} s`)] : [])));
  };
  drawer.addEventListener("close", () => {
    const player = $("video", drawer);
    if (player) drop(player);
    drawer.replaceChildren();
    state.open = "";
    keep();
    if (opener?.isConnected) opener.focus();
    opener = null;
  });
  drawer.addEventListener("keydown", (event) => {
    const step = { j: 1, k: -1 }[event.key];
    if (step && !event.ctrlKey && !event.metaKey) $(`[data-step="${step}"]`, drawer)?.click();
  });

  // Side by side: variants and seeds of one subject and prompt, or any clips that were picked.
  const wide = $("[data-compare]");
  const MOST_CELLS = 36;
  let players = [];
  let keeper = 0;
  const pauseAll = () => { clearInterval(keeper); for (const one of players) one.pause(); label("Play all"); };
  const playAll = () => {
    for (const one of players) { if (one.ended) one.currentTime = 0; play(one); }
    clearInterval(keeper);
    // Players drift: all follow the first one.
    keeper = setInterval(() => {
      const lead = players.find((one) => !one.ended);
      for (const one of players)
        if (lead && one !== lead && !one.ended && !one.seeking && Math.abs(one.currentTime - lead.currentTime) > 0.12)
          one.currentTime = lead.currentTime;
    }, 400);
    label("Pause all");
  };
  const isPlaying = () => players.some((one) => !one.paused && !one.ended);
  const label = (words) => { const button = $("[data-play]", wide); if (button) button.textContent = words; };
  const toggle = () => (isPlaying() ? pauseAll() : playAll());
  const again = () => {
    // The shorter ones wait on their last frame for the longest.
    if (players.every((one) => one.ended || one.error)) { for (const one of players) one.currentTime = 0; playAll(); }
  };
  const cell = (row) => make("div", { class: "cell", "data-cell": row.id },
    row.c ? video(row, { preload: "auto", "aria-label": title(row) })
      : make("div", { class: `tile ${row.s}` }, icon(row.s), make("b", {}, [data.words[row.s], row.code].filter(Boolean).join(": ")),
        make("span", { class: "soft" }, text(row.m).slice(0, 160))),
    make("span", { class: "soft" }, make("span", { class: row.s }, icon(row.s), ` ${data.words[row.s]}`),
      row.l === undefined || !row.c ? "" : ` · likeness ${row.l.toFixed(2)}`),
    make("button", { type: "button", click: () => open(row, null) }, "Details"));
  const show = (heading, controls, table) => {
    halt();
    pauseAll();
    for (const one of players) drop(one);
    const lines = $$("tbody tr", table);
    table.style.setProperty("--across", String(Math.max(...lines.map((line) => $$("td", line).length), 1)));
    table.style.setProperty("--down", String(lines.length));
    wide.replaceChildren(
      make("div", { class: "bar" }, make("h2", { id: "compare-title" }, heading), ...controls,
        make("button", { type: "button", "data-play": true, click: toggle }, "Play all"),
        make("button", { type: "button", "data-close": true, click: () => wide.close() }, "Close")),
      make("div", { class: "body" }, make("div", { class: "matrix", tabindex: "0", role: "region", "aria-label": "Clips side by side" }, table),
        make("p", { class: "soft" }, "Space plays and pauses all.")));
    players = $$("video", wide);
    for (const one of players) one.addEventListener("ended", again);
    if (!wide.open) { wide.showModal(); $("[data-play]", wide).focus(); }
    if (players.length === 0) $("[data-play]", wide).disabled = true;
    else if (!still.matches) playAll();
  };
  const current = rows.filter((row) => !row.o);
  const distinct = (list) => [...new Set(list)].sort(natural.compare);
  const options = (values, chosen) => values.map((value) => make("option", { value, selected: value === chosen }, value));
  const matrix = (subject, prompt, from = 0) => {
    const found = current.filter((row) => row.subject === subject && row.prompt === prompt);
    const variants = distinct(found.map((row) => row.variant));
    const seeds = distinct(found.map((row) => row.seed));
    const step = Math.max(1, Math.floor(MOST_CELLS / Math.max(variants.length, 1)));
    const some = seeds.slice(from, from + step);
    const prompts = distinct(current.filter((row) => row.subject === subject).map((row) => row.prompt));
    const subjects = distinct(current.map((row) => row.subject));
    const select = (name, values, chosen, change) => {
      const element = make("select", { [`data-${name}`]: true }, ...options(values, chosen));
      element.addEventListener("change", () => change(element.value));
      return make("label", {}, make("span", { class: "soft" }, name), element);
    };
    const first = (of) => current.find((row) => row.subject === of).prompt;
    const controls = [
      select("subject", subjects, subject, (value) => matrix(value, current.some((row) => row.subject === value && row.prompt === prompt) ? prompt : first(value))),
      select("prompt", prompts, prompt, (value) => matrix(subject, value)),
    ];
    if (seeds.length > step) controls.push(
      make("button", { type: "button", disabled: from === 0, click: () => matrix(subject, prompt, from - step) }, "Earlier seeds"),
      make("button", { type: "button", disabled: from + step >= seeds.length, click: () => matrix(subject, prompt, from + step) }, "Later seeds"));
    show(`${subject} · ${prompt}`, controls, make("table", {},
      make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "variant"), ...some.map((seed) => make("th", { scope: "col" }, `seed ${seed}`)))),
      make("tbody", {}, ...variants.map((variant) => make("tr", {}, make("th", { scope: "row" }, variant), ...some.map((seed) => {
        const here = found.filter((row) => row.variant === variant && row.seed === seed);
        return make("td", {}, ...(here.length ? here.map(cell) : [make("span", { class: "soft" }, "not asked for")]));
      }))))));
  };
  const compareCell = (row) => { const from = opener; drawer.close(); if (from) from.focus(); matrix(row.subject, row.prompt); };
  wide.addEventListener("close", () => { pauseAll(); for (const one of players) drop(one); players = []; wide.replaceChildren(); });
  wide.addEventListener("keydown", (event) => {
    if (event.key !== " " || event.target.closest("button, select, input, a, summary") || !players.length) return;
    event.preventDefault();
    toggle();
  });

  // Picking clips for a comparison of one's own.
  const picked = new Set();
  const tray = () => {
    $("[data-tray]").hidden = picked.size === 0;
    $("[data-picked]").textContent = `${count(picked.size, "clip")} picked`;
    $("[data-compare-picked]").disabled = picked.size < 2;
  };
  for (const [id, card] of cards) {
    const button = make("button", { type: "button", class: "pick", "data-pick": true, "aria-pressed": "false",
      "aria-label": `Pick ${title(byId.get(id))} to compare` }, "Pick");
    button.addEventListener("click", () => {
      if (!picked.delete(id)) picked.add(id);
      button.setAttribute("aria-pressed", String(picked.has(id)));
      tray();
    });
    card.append(button);
  }
  $("[data-unpick]").addEventListener("click", () => {
    picked.clear();
    for (const button of $$("[data-pick]")) button.setAttribute("aria-pressed", "false");
    tray();
  });
  $("[data-compare-picked]").addEventListener("click", () => {
    const chosen = [...picked].slice(0, MOST_CELLS).map((id) => byId.get(id));
    show(count(chosen.length, "picked clip"), [], make("table", {},
      make("thead", {}, make("tr", {}, ...chosen.map((row) => make("th", { scope: "col" }, title(row))))),
      make("tbody", {}, make("tr", {}, ...chosen.map((row) => make("td", {}, cell(row)))))));
  });

  // The tools above the cards.
  for (const select of $$("[data-filter]")) {
    const name = select.dataset.filter;
    const values = name === "status" ? URGENCY.filter((word) => rows.some((row) => row.s === word)) : distinct(rows.map((row) => row[name])).filter(Boolean);
    select.append(...values.map((value) => make("option", { value }, name === "status" ? data.words[value] : value)));
    if (values.length < 2 && !state[name]) select.closest("label").hidden = true;
    select.addEventListener("change", () => { state[name] = select.value; apply(); });
  }
  for (const button of $$("[data-set]")) button.addEventListener("click", () => {
    const { set, value } = button.dataset;
    state[set] = state[set] === value ? "" : value;
    apply();
    if (set === "code" && state[set]) $("[data-tools]").scrollIntoView({ block: "start" });
  });
  const search = $("[data-search]");
  search.value = state.q;
  let typing = 0;
  search.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(() => { state.q = search.value.trim(); apply(); }, 80); });
  $("[data-tools]").addEventListener("submit", (event) => event.preventDefault());
  const group = $("[data-group]");
  group.value = state.group;
  if (!group.value) group.value = state.group = "status";
  group.addEventListener("change", () => { state.group = group.value; regroup(); apply(); });
  const older = $("[data-older]");
  if (older) { older.checked = state.older; older.addEventListener("change", () => { state.older = older.checked; apply(); }); }
  $("[data-clear]").addEventListener("click", () => {
    for (const name of FILTERS) state[name] = "";
    state.q = search.value = "";
    apply();
    search.focus();
  });
  const side = $("[data-side]");
  side.disabled = current.length === 0;
  side.addEventListener("click", () => {
    const row = current.find(matches) ?? current[0];
    matrix(row.subject, row.prompt);
  });

  document.documentElement.classList.add("js");
  if (state.group !== "status") regroup();
  const asked = state.open && rows.find((row) => row.id.startsWith(state.open));
  apply();
  if (asked) open(asked, $("[data-open]", cards.get(asked.id)));
})();
