"use strict";
// Everything written into the page goes in as text nodes and attributes of fixed names: no string becomes markup.
(() => {
  const one = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const make = (tag, attributes, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };
  const soon = (action) => {
    let timer = 0;
    return () => { clearTimeout(timer); timer = setTimeout(action, 120); };
  };
  const { logs, base, short } = JSON.parse(one("#index").textContent);

  // What is shown stands in the address, so that whoever opens the address sees the same. A browser may refuse that to a file.
  const address = new URLSearchParams(location.search);
  const keep = (values) => {
    for (const [name, value] of Object.entries(values)) if (value) address.set(name, value); else address.delete(name);
    const query = address.toString();
    try { history.replaceState(null, "", `${location.pathname}${query && "?"}${query}${location.hash}`); } catch { /* refused */ }
  };

  // Light and dark. A browser may refuse storage to a file; the choice then lasts as long as the page.
  const root = document.documentElement, theme = one("#theme");
  const dark = () => (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const label = () => { theme.textContent = dark() ? "Light" : "Dark"; theme.setAttribute("aria-label", `Use ${dark() ? "light" : "dark"} colours`); };
  try { if (["light", "dark"].includes(localStorage.theme)) root.dataset.theme = localStorage.theme; } catch { /* refused */ }
  theme.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try { localStorage.theme = root.dataset.theme; } catch { /* refused */ }
    label();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label);
  label();
  theme.hidden = false;

  // Of a page that a server makes anew as results come: the newest one.
  if (root.dataset.live) setInterval(async () => {
    try {
      const answer = await fetch(location.pathname, { method: "HEAD", cache: "no-store" });
      if (answer.ok && answer.headers.get("etag") !== `"${root.dataset.live}"`) location.reload();
    } catch { /* the server has ended */ }
  }, 2000);

  // Tables: a header's button sorts by its column, the best first; what has no value stays last.
  const words = new Intl.Collator("en", { numeric: true });
  const called = (head) => head.textContent.replace(/\s+/g, " ").trim();
  const sort = (head, order) => {
    const body = one("tbody", head.closest("table")), kind = one(".sort", head).dataset.sort;
    const value = (row) => {
      const cell = row.cells[head.cellIndex];
      return kind === "text" ? cell.textContent.trim() : cell.dataset.v === undefined ? null : Number(cell.dataset.v);
    };
    const keyed = [...body.rows].map((row) => [value(row), row]);
    const sign = order === "ascending" ? 1 : -1;
    keyed.sort(([a], [b]) => a === null || b === null ? (a === null) - (b === null) : sign * (kind === "text" ? words.compare(a, b) : a - b));
    body.append(...keyed.map(([, row]) => row));
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order);
  };
  for (const head of all("th:has(.sort)")) {
    const name = `sort-${head.closest("section").id}`, orders = ["ascending", "descending"];
    if (one(".sort", head).dataset.sort === "high") orders.reverse();
    one(".sort", head).addEventListener("click", () => {
      const order = orders[head.getAttribute("aria-sort") === orders[0] ? 1 : 0];
      sort(head, order);
      keep({ [name]: `${order} ${called(head)}` });
    });
    for (const order of orders) if (address.get(name) === `${order} ${called(head)}`) sort(head, order);
  }

  // Which models and which metrics are shown.
  const filter = one("#filter"), columns = one("#columns");
  const named = all("[data-model]"), rows = all("#board tbody tr").length;
  const narrow = () => {
    const part = filter.value.trim().toLowerCase();
    for (const element of named) element.toggleAttribute("hidden", !element.dataset.model.toLowerCase().includes(part));
    one("#count").textContent = part ? `${all("#board tbody tr:not([hidden])").length} of ${rows} models` : "";
  };
  filter.addEventListener("input", soon(() => { narrow(); keep({ models: filter.value.trim() }); }));
  const choose = () => {
    const chosen = columns.value;
    if (chosen === "headline") delete root.dataset.columns; else root.dataset.columns = chosen;
    for (const cell of all(".scores :is(th, td):not(.model, .about)")) cell.hidden = /^t/.test(chosen) && !cell.classList.contains(chosen);
  };
  const chosenName = () => /^t/.test(columns.value) ? columns.selectedOptions[0].textContent : columns.value === "all" ? "all" : "";
  columns.addEventListener("change", () => { choose(); keep({ metrics: chosenName() }); });
  if (address.has("models")) { filter.value = address.get("models"); narrow(); }
  const metrics = [...columns.options].find((option) => [option.value, option.textContent].includes(address.get("metrics")));
  if (metrics) { columns.value = metrics.value; choose(); }
  one("#tools").addEventListener("submit", (event) => event.preventDefault());
  one("#tools").hidden = false;

  // The profile: chosen models come forward.
  const drawing = one(".profile"), colours = new Map();
  for (const button of all("[data-trace]")) button.addEventListener("click", () => {
    const trace = all(".trace", drawing).find((group) => group.dataset.model === button.dataset.trace);
    const on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(on));
    trace.classList.toggle("on", on);
    if (drawing.classList.contains("many")) {
      const free = [0, 1, 2, 3, 4, 5, 6, 7].find((colour) => ![...colours.values()].includes(colour)) ?? 0;
      const own = on ? free : colours.get(trace);
      for (const element of [trace, button]) element.classList.toggle(`c${own}`, on);
      if (on) colours.set(trace, own); else { colours.delete(trace); button.removeAttribute("class"); }
    }
    if (on) trace.parentNode.append(trace);
    drawing.classList.toggle("picked", one(".trace.on", drawing) !== null);
  });

  // Flips. A block is opened once, when it is first looked at.
  if (!logs.length) return;
  const opened = new Map();
  const unpack = async (id) => {
    const bytes = Uint8Array.from(atob(one(`#${id}`).textContent), (letter) => letter.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
  };
  const open = (id) => opened.get(id) ?? opened.set(id, unpack(id)).get(id);

  const form = one("#flip-form"), { task, before, after, kind, category, words: wanted } = form.elements;
  const tally = one("#tally"), list = one("#cases"), more = one("#more");
  const fill = (select, options, value) => {
    select.replaceChildren(...options.map(([key, text]) => make("option", { value: key }, text)));
    if (options.some(([key]) => key === value)) select.value = value;
  };
  const runName = (select) => select.selectedOptions[0]?.title;
  const STEP = 20;
  let found = [], shown = 0, turn = 0;

  const compared = (old, now) => {
    if (!old?.mark || !now?.mark) return "unscored";
    if (old.mark.score !== now.mark.score) return now.mark.score > old.mark.score ? "better" : "worse";
    return now.mark.right ? "right" : "wrong";
  };
  const read = (rows) => new Map(rows.map(([question, answer, mark, reply, prompt, reason, reasoning]) =>
    [question, { answer, reply, prompt, reason, reasoning, mark: mark && { label: mark[0], score: mark[1], right: mark[2] === 1, madeUp: mark[3] } }]));

  const chooseTask = () => {
    const { logs: runs } = logs[task.value], names = runs.map(({ name }, index) => [String(index), short[name] ?? name]);
    const kept = (select, otherwise) => {
      const index = runs.findIndex(({ name }) => name === runName(select));
      return String(index < 0 ? otherwise : index);
    };
    const start = Math.max(0, runs.findIndex(({ name }) => name === base));
    const [old, now] = [kept(before, start), kept(after, Math.max(0, runs.findIndex((_, index) => index !== start)))];
    for (const [select, value] of [[before, old], [after, now]]) {
      fill(select, names, value);
      for (const option of select.options) option.title = runs[option.value].name;
    }
    fill(category, [["", "all"]], "");
  };

  const show = async () => {
    const mine = ++turn, log = logs[task.value], runs = [log.logs[before.value], log.logs[after.value]];
    tally.textContent = "Opening the answers …";
    let questions, old, now;
    try {
      const blocks = await Promise.all([log.block, runs[0].block, runs[1].block].map(open));
      [questions, old, now] = [blocks[0], read(blocks[1]), read(blocks[2])];
    } catch (error) {
      tally.textContent = `The answers could not be opened: ${error.message}`;
      return;
    }
    if (mine !== turn) return; // another choice was made meanwhile
    const kinds = [...new Set(questions.map((question) => question[4]))].filter(Boolean).sort(words.compare);
    fill(category, [["", "all"], ...kinds.map((name) => [name, name])], category.value);
    const counts = { better: 0, worse: 0, right: 0, wrong: 0, unscored: 0 }, part = wanted.value.trim().toLowerCase();
    found = [];
    questions.forEach(([id, prompt, picture, image, type], index) => {
      const pair = [old.get(index), now.get(index)];
      if (!pair[0] && !pair[1] || category.value && type !== category.value) return;
      const outcome = compared(...pair), changed = pair[0]?.answer !== pair[1]?.answer;
      counts[outcome] += 1;
      const fits = { flips: outcome === "better" || outcome === "worse", changed, all: true }[kind.value] ?? outcome === kind.value;
      const text = [id, prompt, ...pair.flatMap((side) => [side?.answer, side?.reply])].join("\n");
      if (fits && text.toLowerCase().includes(part)) found.push({ id, prompt, picture, image, type, pair, outcome });
    });
    const part_of = log.kept < log.asked ? ` Of ${log.asked} questions, the ${log.kept} on which the models differ most are in this page.` : "";
    tally.textContent = `${counts.better} better, ${counts.worse} worse, ${counts.wrong} both wrong, ${counts.right} both right, ` +
      `${counts.unscored} not scored on a side. Showing ${found.length}.${part_of}`;
    list.replaceChildren();
    shown = 0;
    next();
  };

  const next = () => {
    const names = [before, after].map((select) => select.selectedOptions[0].textContent);
    list.append(...found.slice(shown, shown + STEP).map((item) => drawn(item, names)));
    shown = Math.min(shown + STEP, found.length);
    more.hidden = shown === found.length;
    more.textContent = `Show more (${found.length - shown} left)`;
  };

  const MEANS = { better: "▲ better", worse: "▼ worse", right: "both right", wrong: "both wrong", unscored: "not scored on a side" };
  const drawn = ({ id, prompt, picture, image, type, pair, outcome }, names) => {
    const view = picture
      ? make("button", { type: "button", class: "zoom", "aria-label": `Enlarge image ${image}` }, make("img", { src: one(`#${picture}`).textContent, alt: `Image ${image}`, width: "128", height: "128" }))
      : make("div", { class: "blank" }, image);
    const about = make("span", { class: "about" }, [MEANS[outcome], type, id].filter(Boolean).join(" · "));
    const known = pair.some((side) => side?.mark?.madeUp);
    const differs = known ? null : differing(pair.map((side) => side?.answer ?? ""));
    const sides = pair.map((side, index) => answered(side, names[index], known ? madeUp(side) : differs[index], prompt));
    return make("article", { class: "case" }, view, make("h3", { dir: "auto" }, prompt, about), make("div", { class: "pair" }, ...sides));
  };
  const answered = (side, name, parts, prompt) => {
    const box = make("div", { class: `side ${side?.mark ? (side.mark.right ? "good" : "bad") : ""}` });
    box.append(make("div", { class: "who" }, make("bdi", {}, name), make("b", {}, side?.mark?.label ?? "not scored")));
    if (!side || side.answer === null) box.append(make("p", { class: "answer failed" }, side ? `Generation failed. ${side.reason ?? ""}` : "Not asked."));
    else if (!side.answer) box.append(make("p", { class: "answer failed" }, "An empty answer."));
    else box.append(make("p", { class: "answer", dir: "auto" }, ...parts.map(([word, same, what]) => same ? word : make("mark", what ? { class: "made-up", title: what } : {}, word))));
    if (side?.reason && side.answer !== null) box.append(make("p", { class: "answer failed", dir: "auto" }, side.reason));
    if (side?.reply) box.append(make("details", { open: "" }, make("summary", {}, "Judge"), make("p", { class: "reply", dir: "auto" }, side.reply)));
    if (side?.reasoning) box.append(make("details", {}, make("summary", {}, "Thoughts"), make("p", { class: "reply", dir: "auto" }, side.reasoning)));
    if (side?.prompt && side.prompt !== prompt) box.append(make("details", {}, make("summary", {}, "Asked in other words"), make("p", { class: "reply", dir: "auto" }, side.prompt)));
    return box;
  };

  // The words of an answer that its task says are for what is not in the image.
  const madeUp = (side) => {
    const text = side?.answer ?? "", words = side?.mark?.madeUp ?? [];
    if (!words.length) return [[text, true]];
    const escaped = [...words].sort((a, b) => b.length - a.length).map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
    const pattern = new RegExp(`(?<![\\p{L}\\p{N}])(${escaped.join("|")})(?:e?s)?(?![\\p{L}\\p{N}])`, "giu");
    const parts = [];
    let end = 0;
    for (const match of text.matchAll(pattern)) {
      parts.push([text.slice(end, match.index), true], [match[0], false, "not in the image"]);
      end = match.index + match[0].length;
    }
    return [...parts, [text.slice(end), true]];
  };

  // The words of two answers, each with whether the other has it too: the longest common subsequence.
  const differing = (answers) => {
    const [a, b] = answers.map((answer) => answer.match(/[\p{L}\p{N}_'-]+\s*|[^\p{L}\p{N}_'-]\s*/gu) ?? []);
    if (a.length * b.length > 250000) return answers.map((answer) => [[answer, true]]); // too long to compare word by word
    const width = b.length + 1, best = new Uint16Array((a.length + 1) * width), same = (i, j) => a[i].trim() === b[j].trim();
    for (let i = a.length - 1; i >= 0; i--) for (let j = b.length - 1; j >= 0; j--)
      best[i * width + j] = same(i, j) ? best[(i + 1) * width + j + 1] + 1 : Math.max(best[(i + 1) * width + j], best[i * width + j + 1]);
    const left = a.map((word) => [word, false]), right = b.map((word) => [word, false]);
    for (let i = 0, j = 0; i < a.length && j < b.length;) {
      if (same(i, j)) { left[i++][1] = true; right[j++][1] = true; }
      else if (best[(i + 1) * width + j] >= best[i * width + j + 1]) i++;
      else j++;
    }
    return [left, right].map((parts) => parts.reduce((runs, [word, same]) => {
      if (runs.at(-1)?.[1] === same) runs.at(-1)[0] += word; else runs.push([word, same]);
      return runs;
    }, []));
  };

  fill(task, logs.map((log, index) => [String(index), log.label]), "0");
  chooseTask();
  form.addEventListener("submit", (event) => event.preventDefault());
  const name = (select) => select.selectedOptions[0]?.textContent ?? "";
  const showAndKeep = () => {
    show();
    keep({ task: name(task), before: runName(before), after: runName(after), show: kind.value, category: category.value, words: wanted.value.trim() });
  };
  const pick = (select, key, names) => { const at = names.indexOf(address.get(key)); if (at >= 0) select.value = String(at); };
  if (address.has("task")) {
    pick(task, "task", logs.map((log) => log.label));
    chooseTask();
    const runs = logs[task.value].logs.map((run) => run.name);
    pick(before, "before", runs);
    pick(after, "after", runs);
    if ([...kind.options].some((option) => option.value === address.get("show"))) kind.value = address.get("show");
    wanted.value = address.get("words") ?? "";
    const own = address.get("category");
    if (own) fill(category, [["", "all"], [own, own]], own);
  }
  task.addEventListener("change", () => { chooseTask(); showAndKeep(); });
  for (const select of [before, after, kind, category]) select.addEventListener("change", showAndKeep);
  wanted.addEventListener("input", soon(showAndKeep));
  more.addEventListener("click", () => {
    const last = list.lastElementChild;
    next();
    const heading = one("h3", last.nextElementSibling);
    heading.tabIndex = -1;
    heading.focus(); // the first of the new ones, where a reader goes on
  });
  for (const link of all("[data-after]")) link.addEventListener("click", () => {
    task.value = String(logs.findIndex((log) => log.label === link.dataset.task));
    chooseTask();
    const runs = logs[task.value].logs, place = (name) => String(Math.max(0, runs.findIndex((run) => run.name === name)));
    before.value = place(base);
    after.value = place(link.dataset.after);
    kind.value = "flips";
    showAndKeep();
  });
  form.hidden = false;
  const watcher = new IntersectionObserver((seen) => {
    if (!seen.some((entry) => entry.isIntersecting)) return;
    watcher.disconnect();
    if (!turn) show();
  }, { rootMargin: "300px" });
  watcher.observe(one("#flips"));
})();
