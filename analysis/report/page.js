// The report's plain parts: light or dark, tables that sort and that can be taken away as CSV.
"use strict";

/** Let the reader save rows of cells as a CSV file. */
function saveCsv(name, rows) {
  const lines = rows.map((cells) => cells.map((cell) => `"${cell.replaceAll('"', '""')}"`).join(","));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([lines.join("\r\n"), "\r\n"], { type: "text/csv" }));
  link.download = `${name.replaceAll(/[^\w.-]+/g, "_")}.csv`;
  link.click();
  URL.revokeObjectURL(link.href);
}

(() => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const button = document.getElementById("theme");

  function themed() {
    button.textContent = dark() ? "Light" : "Dark";
    button.setAttribute("aria-label", `Switch to ${dark() ? "light" : "dark"} colors`);
    document.dispatchEvent(new Event("theme"));
  }
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try { localStorage.setItem("theme", root.dataset.theme); } catch { /* a page from disk may have no storage */ }
    themed();
  });
  system.addEventListener("change", themed);
  themed();

  // "0.731 [0.70, 0.76]", "1,204" and "–" are cells of numbers; what does not start with one sorts as text.
  const numeric = (text) => (/^[-+]?[\d.,]+/.test(text) ? parseFloat(text.replaceAll(",", "")) : null);
  const EMPTY = new Set(["", "–"]);

  function sort(table, column, descending) {
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => ({ row, text: row.cells[column].textContent.trim() }));
    const numbers = rows.every(({ text }) => EMPTY.has(text) || numeric(text) !== null);
    rows.sort((a, b) => {
      if (EMPTY.has(a.text) || EMPTY.has(b.text)) return EMPTY.has(a.text) - EMPTY.has(b.text); // undefined ones last
      const order = numbers ? numeric(a.text) - numeric(b.text) : a.text.localeCompare(b.text);
      return descending ? -order : order;
    });
    body.append(...rows.map(({ row }) => row));
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const press = document.createElement("button");
      press.type = "button";
      press.append(...head.childNodes);
      head.append(press);
      press.addEventListener("click", () => {
        // the first press shows the largest numbers, or the names from A
        const first = column === 0 ? "ascending" : "descending";
        const other = first === "ascending" ? "descending" : "ascending";
        const order = head.getAttribute("aria-sort") === first ? other : first;
        for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", order);
        sort(table, column, order === "descending");
      });
    });
    const tools = document.createElement("div");
    tools.className = "tools";
    const save = document.createElement("button");
    save.type = "button";
    save.textContent = "Save as CSV";
    const cells = (row) => [...row.cells].map((cell) => cell.textContent.trim());
    save.addEventListener("click", () => saveCsv(table.dataset.name, [...table.rows].map(cells)));
    tools.append(save);
    table.parentElement.after(tools);
  }
})();
