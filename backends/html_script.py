"""The script of the report: one constant, which reads what the page itself holds and fetches nothing.

Without it everything is there to be read; with it strips open, budgets can be tried and lines found.
"""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from typing import Final

SCRIPT: Final = """
'use strict';
const size = n => { const u = ['B','KiB','MiB','GiB','TiB','PiB']; let i = 0;
  while (n >= 1024 && i < 5) { n /= 1024; i += 1; } return n.toFixed(i ? 1 : 0) + u[i]; };
const say = text => { document.getElementById('said').textContent = text; };
for (const strip of document.querySelectorAll('.strip')) {
  const bar = strip.querySelector('.blocks'), crumb = strip.querySelector('.crumb');
  const all = [...bar.children];
  const show = path => {
    const depth = path ? path.split('.').length : 0;
    const within = inner => path === '' || inner === path || inner.startsWith(path + '.');
    for (const block of all) block.hidden = !within(block.dataset.path);
    const seen = all.filter(block => !block.hidden);
    const bytes = seen.reduce((sum, block) => sum + Number(block.dataset.bytes), 0);
    const back = path ? ' - Escape goes back' : '';
    crumb.textContent = (path || 'everything here') + ', ' + size(bytes) + back;
    strip.dataset.at = path; strip.dataset.depth = depth; say(crumb.textContent);
  };
  bar.addEventListener('click', event => {
    const block = event.target.closest('button'); if (!block) return;
    const names = block.dataset.path.split('.'), at = strip.dataset.at || '';
    const same = at ? at.split('.').length : 0;
    if (names.length > same) show(names.slice(0, same + 1).join('.'));
  });
  strip.addEventListener('keydown', event => {
    const blocks = all.filter(block => !block.hidden), now = blocks.indexOf(document.activeElement);
    if (event.key === 'Escape' && strip.dataset.at) show(strip.dataset.at.split('.').slice(0, -1).join('.'));
    else if (event.key === 'ArrowRight' && now >= 0 && now + 1 < blocks.length) blocks[now + 1].focus();
    else if (event.key === 'ArrowLeft' && now > 0) blocks[now - 1].focus();
    else return;
    event.preventDefault();
  });
  strip.dataset.at = '';
}
const units = document.getElementById('whatif');
if (units) {
  const parts = JSON.parse(units.dataset.parts), rows = [...units.querySelectorAll('input')];
  const tried = () => {
    // A range stops at its steps: where it was not moved, the budget is the card's own to the byte.
    const budgets = rows.map(row => row.dataset.moved ? Number(row.value) : Number(row.dataset.memory));
    const room = rows.map((row, at) => budgets[at] - Number(row.dataset.kept)), used = rows.map(() => 0);
    const take = (at, bytes) => { const fits = at >= 0 && bytes <= room[at];
      if (fits) { room[at] -= bytes; used[at] += bytes; } return fits; };
    const left = parts.filter(([at, bytes]) => !take(at, bytes));
    const moved = rows.some(row => row.dataset.moved);
    const off = left.filter(([, bytes]) => !moved || !rows.some((_, at) => take(at, bytes)))
      .reduce((sum, [, bytes]) => sum + bytes, 0);
    rows.forEach((row, at) => { row.nextElementSibling.textContent =
      size(budgets[at]) + ', ' + size(used[at]) + ' of the model'; });
    units.querySelector('output.total').textContent = off
      ? size(off) + ' would be off the accelerators' : 'everything would fit';
  };
  units.addEventListener('input', event => { event.target.dataset.moved = '1'; tried(); });
  units.hidden = false; tried();
}
"""
SOURCE: Final = f"'sha256-{b64encode(sha256(SCRIPT.encode()).digest()).decode()}'"
"""What the page's policy lets run: this text, and nothing else."""
