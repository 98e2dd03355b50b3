"use strict";
// Tables as CSV and LaTeX, drawings as SVG and PNG, and pictures in large. Nothing leaves the page but files that its reader saves.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const { latex } = JSON.parse(document.querySelector("#index").textContent);
  const save = (name, blob) => {
    const link = document.createElement("a"), address = URL.createObjectURL(blob);
    link.href = address;
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
  };
  const button = (text, what, action) => {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = text;
    made.setAttribute("aria-label", `Save ${what} as ${text}`);
    made.addEventListener("click", action);
    return made;
  };
  const row = (...buttons) => {
    const made = document.createElement("div");
    made.className = "save";
    made.append("Save as", ...buttons);
    return made;
  };

  // What a cell says: its parts apart, without what is for screen readers alone.
  const said = (cell) => {
    const copy = cell.cloneNode(true);
    for (const hidden of all(".sr, svg", copy)) hidden.remove();
    for (const part of all("span, bdi, br", copy)) part.after(" ");
    return copy.textContent.replace(/\s+/g, " ").trim();
  };
  const cells = (line) => [...line.cells].filter((cell) => cell.offsetParent !== null && !cell.classList.contains("meter"));
  const lines = (table) => [...table.tHead.rows, ...table.tBodies[0].rows].filter((line) => !line.hidden).map(cells);
  const whole = (cell) => { // the whole name of a model
    const name = cell.querySelector("bdi[title]");
    return name ? said(cell).replace(said(name), name.title) : said(cell);
  };

  // A number has a column of all its digits; where a cell says more, that stands in a column beside it.
  const quoted = (text) => {
    const safe = /^[=+\-@\t\r|%]/.test(text) && Number.isNaN(Number(text)) ? `'${text}` : text;
    return /[",\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  const asCsv = (table) => {
    const [head, ...body] = lines(table);
    const plain = (cell) => cell.dataset.v ?? (cell.dataset.v === undefined && cell.querySelector(".none") ? "" : whole(cell));
    const wide = head.map((_, index) => body.some((own) => own[index]?.dataset.v !== undefined && /[^\d.,]/.test(said(own[index]))));
    const spread = (own, first, second) => own.flatMap((cell, index) => wide[index] ? [first(cell), second(cell)] : [first(cell)]);
    const heads = spread(head, said, (cell) => `${said(cell)} as shown`);
    return [heads, ...body.map((own) => spread(own, plain, said))].map((own) => own.map(quoted).join(",")).join("\n") + "\n";
  };
  const escaped = (text) => [...text].map((letter) => latex[letter] ?? letter).join("");
  const asLatex = (table) => {
    const [head, ...body] = lines(table);
    const cell = (own) => {
      const value = own.querySelector(".value"), interval = own.querySelector(".interval:not(.note)"), change = own.querySelector(".change");
      if (!value) return escaped(said(own));
      const range = /^\[/.test(interval?.textContent ?? "") ? ` {\\scriptsize ${escaped(said(interval))}}` : "";
      return escaped(said(value)) + range + (change ? ` ${escaped(said(change))}` : "");
    };
    const columns = head.map((own) => own.classList.contains("model") || own.classList.contains("text") ? "l" : "r").join("");
    const written = [head.map((own) => escaped(said(own).replace(/[↕▴▾]/g, "").trim())), ...body.map((own) => own.map(cell))].map((own) => `${own.join(" & ")} \\\\`);
    return ["% \\usepackage{booktabs,amssymb}", `\\begin{tabular}{${columns}}`, "\\toprule", written[0], "\\midrule", ...written.slice(1), "\\bottomrule", "\\end{tabular}", ""].join("\n");
  };

  // A drawing with the colours that it has now, written into its elements.
  const STYLES = ["fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-linejoin", "opacity", "font-size", "font-family", "font-weight", "text-anchor"];
  const asSvg = (drawing) => {
    const copy = drawing.cloneNode(true), { width, height } = drawing.viewBox.baseVal;
    const [from, to] = [drawing, copy].map((root) => [root, ...all("*", root)]);
    from.forEach((element, index) => {
      const style = getComputedStyle(element);
      for (const name of STYLES) to[index].setAttribute(name, style.getPropertyValue(name));
      to[index].removeAttribute("class");
    });
    const paper = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    for (const [name, value] of Object.entries({ width, height, fill: getComputedStyle(document.body).backgroundColor })) paper.setAttribute(name, value);
    copy.prepend(paper);
    for (const [name, value] of Object.entries({ width, height })) copy.setAttribute(name, value);
    return { text: new XMLSerializer().serializeToString(copy), width, height };
  };
  const asPng = (drawing) => new Promise((done, fail) => {
    const { text, width, height } = asSvg(drawing), picture = new Image(), canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [2 * width, 2 * height];
    picture.onload = () => {
      canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
      canvas.toBlob(done, "image/png");
    };
    picture.onerror = fail;
    picture.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
  });

  for (const region of all("section .scroll:has(> table)")) {
    const table = region.querySelector("table"), name = region.closest("section").id, what = table.caption.textContent;
    region.after(row(
      button("CSV", what, () => save(`${name}.csv`, new Blob([asCsv(table)], { type: "text/csv" }))),
      button("LaTeX", what, () => save(`${name}.tex`, new Blob([asLatex(table)], { type: "text/plain" }))),
    ));
  }
  all("svg[role=img]").forEach((drawing, index) => {
    const place = drawing.closest(".scroll") ?? drawing, name = `${drawing.closest("section").id}-${index + 1}`, what = `drawing ${index + 1}`;
    place.after(row(
      button("SVG", what, () => save(`${name}.svg`, new Blob([asSvg(drawing).text], { type: "image/svg+xml" }))),
      button("PNG", what, async () => save(`${name}.png`, await asPng(drawing))),
    ));
  });

  // A picture in large.
  const dialog = document.createElement("dialog"), large = document.createElement("img"), close = document.createElement("button");
  close.type = "button";
  close.textContent = "Close";
  close.addEventListener("click", () => dialog.close());
  dialog.append(large, close);
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  document.body.append(dialog);
  document.addEventListener("click", (event) => {
    const picture = event.target.closest?.(".zoom")?.querySelector("img");
    if (!picture) return;
    large.src = picture.src;
    large.alt = picture.alt;
    dialog.setAttribute("aria-label", picture.alt);
    dialog.showModal();
  });
})();
