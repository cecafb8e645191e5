// Search and order of the query list; without it the list stands complete, by query.
(() => {
  const rows = document.getElementById("rows");
  const search = document.getElementById("search");
  const order = document.getElementById("order");
  const found = document.getElementById("found");
  const all = [...rows.children].map((row) => ({
    row,
    text: row.querySelector(".text").textContent.toLowerCase(),
    values: JSON.parse(row.dataset.values).map((value) => value ?? 0),
  }));
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
    const [, a, b] = order.value.split(":").map(Number);
    const gain = ({ values }) => values[a] - values[b];
    const sorted = order.value === "query" ? all : [...all].sort((one, other) => gain(other) - gain(one));
    rows.append(...sorted.map(({ row }) => row));
  };
  search.addEventListener("input", show);
  order.addEventListener("change", sort);
  document.querySelector(".tools").hidden = false;
  if (order.options.length < 2) order.parentElement.hidden = true;
})();
