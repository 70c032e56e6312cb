'use strict';
document.documentElement.classList.add('js');

// The table of tasks: a click on a heading sorts, the field filters.
const table = document.getElementById('tasks');
const body = table.tBodies[0];
const rows = [...body.rows];
const valueOf = (row, column) => {
  const cell = row.cells[column];
  const number = Number(cell.dataset.sort ?? cell.textContent);
  return number === number ? number : cell.textContent;  // no number: the text
};
const compare = (a, b) => typeof a === 'number' && typeof b === 'number' ?
    a - b : String(a).localeCompare(String(b), undefined, {numeric: true});
const sortBy = (heading, column) => {
  const down = heading.getAttribute('aria-sort') === 'ascending';
  for (const other of table.tHead.rows[0].cells) {
    other.removeAttribute('aria-sort');
  }
  heading.setAttribute('aria-sort', down ? 'descending' : 'ascending');
  const sign = down ? -1 : 1;
  const missing = (row) => row.cells[column].textContent === '–';
  body.append(...[...rows].sort((a, b) => missing(a) - missing(b) ||
      sign * compare(valueOf(a, column), valueOf(b, column))));
};
[...table.tHead.rows[0].cells].forEach((heading, column) => {
  const button = document.createElement('button');
  button.type = 'button';
  button.title = 'Sort by this column';
  button.append(...heading.childNodes);
  button.addEventListener('click', () => sortBy(heading, column));
  heading.append(button);
});
const field = document.getElementById('filter');
field.addEventListener('input', () => {
  const words = field.value.toLowerCase().split(/\s+/);
  let shown = 0;
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
    shown += !row.hidden;
  }
  document.getElementById('shown').value = `${shown} of ${rows.length}`;
});

// A figure as a file of its own, in the colours of a light page.
for (const link of document.querySelectorAll('a.save')) {
  link.addEventListener('click', () => {
    const svg = link.closest('figure').querySelector('svg');
    const text = new XMLSerializer().serializeToString(svg)
        .replace(/var\(--fig-\w+, (#\w+)\)/g, '$1');
    link.href = URL.createObjectURL(
        new Blob([text], {type: 'image/svg+xml'}));
  });
}
