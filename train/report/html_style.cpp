// Colours: s0 .. s7 can be told apart with any of the common colour blindnesses (after Okabe and Ito 2008)
// and have a contrast of at least 3 to 1 with the card behind them, in light and in dark.
#include "train/report/html_style.h"

namespace filigree {

const char* report_style() {
  return R"(:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #1c2430; --soft: #566172; --rule: #d9dee6; --grid: #e8ebf0;
  --accent: #0b5cad; --best: #eef5fd; --shade: #00000038;
  --s0: #0072b2; --s1: #c44e00; --s2: #007a59; --s3: #a93f86; --s4: #8f6400; --s5: #5a57c9; --s6: #5f6b73; --s7: #8c2f2a;
  --d0: #f0f2f6; --d1: #c9daf2; --d2: #a3c0e6; --d3: #7aa2d6; --d4: #4674b4; --d5: #2f62a3; --d6: #15428a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #12161c; --card: #1a2028; --ink: #e6eaf0; --soft: #a3aebd; --rule: #364050; --grid: #2a3240;
    --accent: #7ab8f5; --best: #1d2b3a; --shade: #ffffff38;
    --s0: #5ab4f0; --s1: #ff9a56; --s2: #3cc9a0; --s3: #f08cc8; --s4: #dcae3c; --s5: #a9a4ff; --s6: #a7b3bb; --s7: #ee8578;
    --d0: #232b36; --d1: #27405f; --d2: #2c5585; --d3: #366aa8; --d4: #5490d2; --d5: #80b2e8; --d6: #b9d8f8;
  }
}
@media print {
  :root {
    color-scheme: light;
    --page: #ffffff; --card: #ffffff; --ink: #000000; --soft: #444444; --rule: #bbbbbb; --grid: #e4e4e4;
    --accent: #0b5cad; --best: #f2f2f2; --shade: transparent;
    --s0: #0072b2; --s1: #c44e00; --s2: #007a59; --s3: #a93f86; --s4: #8f6400; --s5: #5a57c9; --s6: #5f6b73; --s7: #8c2f2a;
    --d0: #f0f2f6; --d1: #c9daf2; --d2: #a3c0e6; --d3: #7aa2d6; --d4: #4674b4; --d5: #2f62a3; --d6: #15428a;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 24px 20px 48px; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 0.8rem; }
h3 { font-size: 1rem; margin: 0 0 0.5rem; overflow-wrap: anywhere; }
p { margin: 0 0 0.6rem; max-width: 75ch; }
.sub, .note, caption, figcaption, footer { color: var(--soft); font-size: 0.875rem; }
.sub { margin-top: 0.3rem; }
figcaption strong { color: var(--ink); }
.card, .short { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 16px; }
.short { border-left: 4px solid var(--accent); margin-top: 1.2rem; padding: 16px 20px; }
.short h2 { margin: 0 0 0.5rem; }
.short h3 { margin-top: 1rem; }
.short p:last-child { margin-bottom: 0; }
.lead { font-size: 1.125rem; font-weight: 600; }
.beside { color: var(--soft); }
.scroll { overflow-x: auto; border: 1px solid var(--rule); border-radius: 8px; background:
  linear-gradient(to right, var(--card) 40%, transparent) left / 32px 100% no-repeat local,
  linear-gradient(to left, var(--card) 40%, transparent) right / 32px 100% no-repeat local,
  linear-gradient(to right, var(--shade), transparent) left / 14px 100% no-repeat scroll,
  linear-gradient(to left, var(--shade), transparent) right / 14px 100% no-repeat scroll, var(--card); }
.scroll::-webkit-scrollbar { height: 12px; }
.scroll::-webkit-scrollbar-thumb { background: var(--soft); border: 3px solid var(--card); border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-size: 0.875rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: 12px 14px 4px; }
th, td { padding: 7px 12px; text-align: right; white-space: nowrap; vertical-align: bottom; }
thead th { color: var(--soft); font-weight: 600; white-space: normal; min-width: 5.2em; border-bottom: 1px solid var(--rule); }
th:first-child { text-align: left; white-space: normal; min-width: 12em; }
tbody th { font-weight: 600; overflow-wrap: anywhere; }
tbody th, tbody td { vertical-align: top; }
tbody tr + tr > * { border-top: 1px solid var(--grid); }
tr.best > * { background: var(--best); }
.swatch { display: inline-block; width: 0.7em; height: 0.7em; border-radius: 2px; margin-right: 0.5em; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(440px, 100%), 1fr)); gap: 16px; margin-top: 16px; align-items: start; }
figure { margin: 0; min-width: 0; }
.figures figcaption { margin-bottom: 12px; }
.chart { display: block; width: 100%; height: auto; }
.chart text { font: 11px system-ui, sans-serif; fill: var(--ink); }
.chart .tick, .chart .axisname { fill: var(--soft); font-size: 10px; }
.chart .value { font-variant-numeric: tabular-nums; fill: var(--ink); }
.chart .label { font-weight: 600; }
.grid { stroke: var(--grid); stroke-width: 1; }
.axis { stroke: var(--soft); stroke-width: 1; }
.leader { stroke: var(--soft); stroke-width: 0.7; opacity: 0.6; }
.front { fill: none; stroke: var(--soft); stroke-width: 1.2; stroke-dasharray: 2 3; }
.whisker { stroke: var(--soft); stroke-width: 1; opacity: 0.55; }
.even { stroke: var(--soft); stroke-width: 1.2; stroke-dasharray: 5 4; }
.ring { fill: none; stroke: var(--soft); stroke-width: 1.2; }
.curve { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.band { stroke: none; opacity: 0.14; }
.interval { stroke-width: 2; }
.single { stroke-width: 1; opacity: 0.65; }
.mark { stroke: var(--card); stroke-width: 1; }
.pale { opacity: 0.3; }
.k1 { stroke-dasharray: 6 3; }
.k2 { stroke-dasharray: 2 2.5; }
.s0 { --c: var(--s0); } .s1 { --c: var(--s1); } .s2 { --c: var(--s2); } .s3 { --c: var(--s3); }
.s4 { --c: var(--s4); } .s5 { --c: var(--s5); } .s6 { --c: var(--s6); } .s7 { --c: var(--s7); }
.swatch { background: var(--c); }
.chart .mark, .chart .label, .chart .band, .chart .solid, .chart .pale { fill: var(--c); }
.chart .curve, .chart .interval, .chart .single { stroke: var(--c); }
.d0 { fill: var(--d0); } .d1 { fill: var(--d1); } .d2 { fill: var(--d2); } .d3 { fill: var(--d3); }
.d4 { fill: var(--d4); } .d5 { fill: var(--d5); } .d6 { fill: var(--d6); }
.h0 { background: var(--d0); } .h1 { background: var(--d1); } .h2 { background: var(--d2); } .h3 { background: var(--d3); }
.h4 { background: var(--d4); } .h5 { background: var(--d5); } .h6 { background: var(--d6); }
.h4, .h5, .h6 { color: var(--card); }
.heat td, .heat thead th:not(:first-child) { text-align: center; }
.heat { margin-bottom: 16px; }
.heats { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(320px, 100%), 1fr)); gap: 0 16px; align-items: start; }
.heats table { table-layout: fixed; }
.heats th { min-width: 3em; padding: 5px 8px; }
.heats td { padding: 5px 8px; }
.heats th:first-child { width: 8em; min-width: 0; overflow-wrap: anywhere; }
.heats tbody tr:last-child > * { border-top: 2px solid var(--rule); }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(240px, 100%), 1fr)); gap: 16px; align-items: start; }
.pictures article:has(.panel + .panel) { grid-column: 1 / -1; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(200px, 45%), 1fr)); gap: 10px 16px; }
.panels:has(> :only-child) { grid-template-columns: 1fr; }
.pictures details { border: 0; padding: 0; margin-top: 12px; }
.pictures summary { margin-bottom: 10px; font-size: 0.875rem; }
.picture { display: block; width: 100%; max-width: 320px; height: auto; border: 1px solid var(--rule); }
.panel figcaption { font-size: 0.75rem; margin-top: 4px; }
dt { font-weight: 600; }
dd { margin: 0 0 0.6rem; max-width: 75ch; }
details { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 8px 14px; margin-bottom: 8px; }
summary { cursor: pointer; font-weight: 600; overflow-wrap: anywhere; }
details p { margin-top: 0.6rem; font-size: 0.875rem; overflow-wrap: anywhere; }
pre { overflow-x: auto; font-size: 0.8125rem; line-height: 1.45; margin: 0.6rem 0; }
code { font-family: ui-monospace, monospace; font-size: 0.92em; }
li code { overflow-wrap: anywhere; }
footer { margin-top: 2.5rem; }
@media (max-width: 560px) {
  main { padding: 16px 12px 32px; }
  .card { padding: 12px; }
  th:first-child { min-width: 10em; }
  .pictures { grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 10px; }
}
@media print {
  body { font-size: 10.5pt; }
  main { max-width: none; padding: 0; }
  figure, article, tr, .short { break-inside: avoid; }
  h2, h3, h2 + p { break-after: avoid; }
  .scroll { overflow: visible; }
  .heat td { print-color-adjust: exact; }
  .heat { break-inside: avoid; }
  table { font-size: 7.5pt; }
  th, td { padding: 3px 5px; }
  .figures { grid-template-columns: 1fr 1fr; gap: 8px; }
  .pictures { grid-template-columns: repeat(3, 1fr); gap: 8px; }
  pre { white-space: pre-wrap; }
}
)";
}

}  // namespace filigree
