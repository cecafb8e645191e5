// Search and order of the query list, and two rankings side by side in the rows that are opened.
(() => {
  const byId = (id) => document.getElementById(id);
  const [rows, search, order, found, left, right] = ["rows", "search", "order", "found", "left", "right"].map(byId);
  const { systems, queries } = JSON.parse(byId("rankings").textContent);
  const all = [...rows.children].map((row) => ({
    row,
    text: row.querySelector(".text").textContent.toLowerCase(),
    values: JSON.parse(row.dataset.values).map((value) => value ?? 0),
  }));
  const make = (tag, text, kind) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (kind) element.className = kind;
    return element;
  };
  const pair = () => (left ? [Number(left.value), Number(right.value)] : [0]);

  // A document: its label, its title, its score, and how many positions higher or lower it stands than in the other list.
  const makeDocument = ([docId, title, label], index, score, place, elsewhere) => {
    const item = make("li");
    item.dataset.document = index;
    item.title = docId;
    const mark = make("span", label ?? "?", `label g${label === null ? "none" : Math.min(Math.max(label, 0), 4)}`);
    mark.title = label === null ? "nobody judged it" : `label ${label}`;
    const moved = elsewhere < 0 ? "new" : elsewhere > place ? `↑${elsewhere - place}` : elsewhere < place ? `↓${place - elsewhere}` : "";
    item.append(mark, ` ${title} `, make("small", score));
    if (moved) item.append(" ", make("small", moved, elsewhere < 0 || elsewhere > place ? "up" : "down"));
    return item;
  };
  const draw = (row) => {
    const { documents, rankings } = queries[row.dataset.query];
    const chosen = pair();
    const lists = chosen.map((system, side) => {
      const other = rankings[chosen[1 - side] ?? system].map(([index]) => index);
      const list = make("ol");
      list.append(
        ...rankings[system].map(([index, score], place) => {
          const elsewhere = other.indexOf(index);
          return makeDocument(documents[index], index, score, place, elsewhere);
        }),
      );
      const box = make("div");
      box.append(make("h3", systems[system]), list);
      return box;
    });
    row.querySelector(".rankings").replaceChildren(...lists);
  };
  const drawOpen = () => rows.querySelectorAll("details[open]").forEach(draw);

  const show = () => {
    const wanted = search.value.trim().toLowerCase();
    let count = 0;
    for (const { row, text } of all) {
      row.hidden = !text.includes(wanted);
      count += row.hidden ? 0 : 1;
    }
    found.textContent = wanted ? `${count} found` : "";
  };
  const sort = () => {
    const [one, other] = pair();
    const sign = order.value === "gain" ? 1 : -1;
    const gain = ({ values }) => sign * (values[one] - values[other]);
    const sorted = order.value === "query" ? all : [...all].sort((a, b) => gain(b) - gain(a));
    rows.append(...sorted.map(({ row }) => row));
  };

  rows.addEventListener("toggle", ({ target }) => target.open && draw(target), true);
  // The same document is marked in both lists.
  rows.addEventListener("mouseover", ({ target }) => {
    const item = target.closest("li");
    rows.querySelectorAll("li.same").forEach((each) => each.classList.remove("same"));
    if (!item) return;
    const same = `li[data-document="${item.dataset.document}"]`;
    item.closest(".rankings").querySelectorAll(same).forEach((each) => each.classList.add("same"));
  });
  search.addEventListener("input", show);
  for (const choice of [left, right]) choice?.addEventListener("change", () => (drawOpen(), sort()));
  order?.addEventListener("change", sort);
  document.querySelector(".tools").hidden = false;
})();
