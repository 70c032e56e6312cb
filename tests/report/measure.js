// Put into a page by test_browser.py: what overlaps, and what is too wide.
const quads = [];
const clipOf = (element) => {
  let clip = [0, -1e9, innerWidth, 1e9];
  for (let e = element; e && e !== document.body; e = e.parentElement) {
    if (getComputedStyle(e).overflowX !== 'visible' && !(e instanceof
        SVGElement)) {
      const box = e.getBoundingClientRect();
      clip = [Math.max(clip[0], box.left), Math.max(clip[1], box.top),
        Math.min(clip[2], box.right), Math.min(clip[3], box.bottom)];
    }
  }
  return clip;
};
const add = (element, words, corners, inside) => {
  const folded = element.closest('details:not([open])');
  if (folded && !element.closest('summary')) return;
  const [x, y] = [0, 1].map((i) => corners.reduce(
      (sum, corner) => sum + corner[i], 0) / 4);
  const clip = clipOf(element);
  if (x < clip[0] || x > clip[2] || y < clip[1] || y > clip[3]) return;
  quads.push({words: words.trim().slice(0, 40), corners, element, inside});
};
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode;
  const parent = node.parentElement;
  if (!node.data.trim() || parent.closest('svg, script')) continue;
  const range = document.createRange();
  range.selectNodeContents(node);
  for (const r of range.getClientRects()) {
    const inset = r.height / 5;  // a line's box is higher than its letters
    add(parent, node.data, [[r.left, r.top + inset], [r.right, r.top + inset],
      [r.right, r.bottom - inset], [r.left, r.bottom - inset]], null);
  }
}
for (const text of document.querySelectorAll('svg text')) {
  const box = text.getBBox();
  const at = text.getScreenCTM();
  if (!box.width || !at) continue;
  const inset = box.height / 5;
  const corner = (x, y) => [at.a * x + at.c * y + at.e,
    at.b * x + at.d * y + at.f];
  add(text, text.textContent, [corner(box.x, box.y + inset),
    corner(box.x + box.width, box.y + inset),
    corner(box.x + box.width, box.y + box.height - inset),
    corner(box.x, box.y + box.height - inset)], text.ownerSVGElement);
}
// Two convex shapes are apart if a side of one separates them.
const apart = (one, other) => one.some(([x, y], i) => {
  const [u, v] = one[(i + 1) % 4];
  const along = one.map(([a, b]) => (a - x) * (v - y) - (b - y) * (u - x));
  const others = other.map(([a, b]) => (a - x) * (v - y) - (b - y) * (u - x));
  const slack = Math.hypot(u - x, v - y) / 2;  // half a pixel
  return Math.max(...others) <= Math.min(...along) + slack ||
      Math.min(...others) >= Math.max(...along) - slack;
});
const overlaps = [];
quads.forEach((one, i) => {
  for (const other of quads.slice(i + 1)) {
    if (!apart(one.corners, other.corners) &&
        !apart(other.corners, one.corners)) {
      overlaps.push([one.words, other.words]);
    }
  }
});
// Words of a figure may not leave it.
const outside = quads.filter(({inside, corners}) => {
  const box = inside && inside.getBoundingClientRect();
  return box && corners.some(([x, y]) => x < box.left - 1 || y < box.top - 1 ||
      x > box.right + 1 || y > box.bottom + 1);
}).map(({words}) => words);
const wide = [...document.querySelectorAll('body *')].filter((element) =>
  !element.closest('svg, details:not([open])') && element.getBoundingClientRect().right >
  innerWidth + 1 && element.getBoundingClientRect().left <= clipOf(element)[2] &&
  !element.parentElement.closest('.scroll, figure > div'))
    .map((element) => element.tagName);
const result = document.createElement('pre');
result.id = 'measured';
result.textContent = JSON.stringify({
  width: innerWidth, scroll: document.documentElement.scrollWidth,
  dark: matchMedia('(prefers-color-scheme: dark)').matches,
  page: getComputedStyle(document.body).backgroundColor,
  texts: quads.length, overlaps, outside, wide});
parent.document.body.append(result);
