"""The style sheet of the report: one constant, light and dark, nothing fetched."""

from __future__ import annotations

from typing import Final

PALETTE: Final = (
    "#3b82c4", "#e0823d", "#4a9e5c", "#a06cc0", "#d1495b", "#2a9d9a", "#c9a227",
    "#8d6e63", "#d77fa1", "#6b7fd7",
)  # fmt: skip
CPU_COLOUR: Final = "#8b93a1"
DISK_COLOUR: Final = "#5c6370"

STYLE: Final = """
:root { color-scheme: light dark; --bg: #f6f7f9; --card: #fff; --ink: #1b1f24; --soft: #626a76;
  --line: #dfe3e8; --track: #eceff3; --warn: #8a5a00; --warnbg: #fff6e0; --err: #a3202c; --errbg: #fdecee; }
@media (prefers-color-scheme: dark) { :root { --bg: #14171b; --card: #1d2126; --ink: #e6e9ed;
  --soft: #98a1ad; --line: #31373f; --track: #2a2f36; --warn: #f0c060; --warnbg: #33290f; --err: #ff8f98;
  --errbg: #3a1a1e; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--ink);
  font: 14px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 24px 60px; }
h1 { font-size: 24px; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 15px; margin: 30px 0 10px; }
.sub { color: var(--soft); margin: 2px 0 0; }
code, .mono { font: 12.5px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.facts { display: flex; flex-wrap: wrap; gap: 10px; margin-top: 16px; }
.fact { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 8px 14px; }
.fact b { display: block; font-size: 17px; } .fact span { color: var(--soft); font-size: 12px; }
.facts + .note { margin-top: 16px; }
.note { border-radius: 8px; padding: 9px 14px; margin: 8px 0; border-left: 4px solid; }
.warning { background: var(--warnbg); border-color: var(--warn); }
.error { background: var(--errbg); border-color: var(--err); }
.note b { font-weight: 600; } .warning code:first-child { color: var(--warn); }
.error code:first-child { color: var(--err); }
.note div { color: var(--soft); font-size: 13px; }
.devices { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(340px, 100%), 1fr));
  gap: 12px; }
.device { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px; }
.device header { display: flex; justify-content: space-between; gap: 10px; align-items: baseline; }
.device header span { color: var(--soft); font-size: 12.5px; text-align: right; }
.dot { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 7px; }
.bar { display: flex; height: 18px; border-radius: 5px; overflow: hidden; background: var(--track);
  margin: 8px 0 6px; }
.bar i { display: block; min-width: 1px; } .bar i[style^="width:0.000%"] { display: none; }
.parts { color: var(--soft); font-size: 12.5px; display: flex; flex-wrap: wrap; gap: 2px 14px; }
.parts .dot { width: 8px; height: 8px; margin-right: 5px; }
.map { border-radius: 10px; overflow: hidden; border: 1px solid var(--line); background: var(--card); }
.row { display: flex; }
.cell { overflow: hidden; white-space: nowrap; text-overflow: ellipsis; min-width: 2px; padding: 3px 0 0 5px;
  color: #fff; font-size: 11px; line-height: 1.25; text-shadow: 0 0 3px rgb(0 0 0 / 55%);
  border-right: 1px solid var(--card); border-bottom: 1px solid var(--card); }
.cell small { display: block; opacity: .85; overflow: hidden; text-overflow: ellipsis; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 8px 0; color: var(--soft);
  font-size: 12.5px; }
details { background: var(--card); border: 1px solid var(--line); border-radius: 10px; margin: 8px 0;
  overflow-x: auto; }
summary { cursor: pointer; padding: 9px 14px; font-weight: 600; }
summary span { color: var(--soft); font-weight: 400; margin-left: 8px; }
table { border-collapse: collapse; width: 100%; }
.units { table-layout: fixed; } .units th { width: 13%; } .units th:first-child { width: 48%; }
th { text-align: left; color: var(--soft); font-weight: 500; font-size: 12px; }
th, td { padding: 4px 14px; border-top: 1px solid var(--line); vertical-align: top; }
.moments th { white-space: normal; } .moments td { width: 25%; }
.num { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.strip { margin: 8px 0 12px; } .crumb { color: var(--soft); font-size: 12.5px; overflow-wrap: anywhere; }
.blocks { display: flex; height: 34px; border-radius: 6px; overflow: hidden; background: var(--track); }
.blocks button { border: 0; border-right: 1px solid var(--card); min-width: 1px; padding: 0;
  cursor: zoom-in; }
.blocks button:hover { filter: brightness(1.2); } .blocks button[hidden] { display: none; }
.blocks button:focus-visible, input:focus-visible, summary:focus-visible, a:focus-visible
  { outline: 3px solid #6b7fd7; outline-offset: -3px; }
.road { padding-left: 26px; overflow-wrap: anywhere; } .road b { margin-right: 8px; }
#whatif label { display: grid; grid-template-columns: 90px minmax(0, 1fr) minmax(0, 220px); gap: 10px;
  align-items: center; margin: 4px 0; } #whatif output { color: var(--soft); font-size: 12.5px; }
#whatif .total { display: block; font-weight: 600; margin-top: 6px; color: var(--ink); }
pre { margin: 0; padding: 10px 14px; overflow-x: auto;
  font: 12px/1.5 ui-monospace, Menlo, Consolas, monospace; }
.line { color: var(--soft); text-decoration: none; user-select: none; } .line:target { color: var(--warn); }
#said { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); margin: 0; }
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(320px, 100%), 1fr)); gap: 0 24px; }
.sides h2 { overflow-wrap: anywhere; }
footer { color: var(--soft); font-size: 12px; margin-top: 30px; }
@media (max-width: 640px) { #whatif label { grid-template-columns: 64px minmax(0, 1fr); }
  #whatif label output { grid-column: 2; } main { padding: 20px 14px 40px; } th, td { padding: 4px 7px; }
  .units tr { display: grid; grid-template-columns: 3.5em 6em 1fr 1fr; border-top: 1px solid var(--line); }
  .units th, .units th:first-child { width: auto; } .units th, .units td { border-top: 0; }
  .units td:first-child, .units th:first-child { grid-column: 1 / -1; padding-bottom: 0; }
  .moments th { overflow-wrap: anywhere; white-space: normal; }
  .cell { text-overflow: clip; padding-left: 3px; font-size: 10px; } .cell small { display: none; } }
@media print { details { break-inside: avoid; } .cell, .bar i, .dot { print-color-adjust: exact; } }
"""
