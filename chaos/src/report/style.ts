/** The page's one style sheet. Colour means something: a fault is in force (amber), a promise is violated or a request failed (red). */
export const STYLE = `
:root{color-scheme:light dark;--ink:#1c1f23;--soft:#5a626c;--line:#dfe3e8;--back:#fff;--panel:#f6f7f9;--fault:#e0a33a;--fault-soft:#f3d9a6;
--column:rgba(224,163,58,.16);--bad:#b3261e;--bad-back:#fdecea;--ok:#1b6e3c;--unknown:#7a5b00;--data:#3b5b8c;--data-soft:#c9d5e8;--fault-ink:#3a2a00}
@media(prefers-color-scheme:dark){:root{--ink:#e4e7eb;--soft:#9aa4b0;--line:#31373f;--back:#14171b;--panel:#1c2026;--fault:#c98b1f;--fault-soft:#6d5220;
--column:rgba(214,150,40,.17);--bad:#ff8a80;--bad-back:#3a1c1a;--ok:#7fd19b;--unknown:#e3c06a;--data:#8fb0e0;--data-soft:#32425c;--fault-ink:#fff3da}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--ink);font:14px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1240px;margin:0 auto;padding:28px 32px 60px}
h1{font-size:26px;line-height:1.2;margin:0 0 4px;font-weight:650;letter-spacing:-.01em}
h2 .note{font-weight:400;margin-left:10px}
.must{color:var(--data);font-size:9px;vertical-align:2px;margin-left:4px}
h2{font-size:15px;margin:34px 0 8px;font-weight:650}
p{margin:0 0 6px;max-width:90ch}
a{color:inherit}
a:focus-visible,summary:focus-visible{outline:2px solid var(--data);outline-offset:2px}
code,.mono{font:12px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.soft,.note{color:var(--soft)}
.note{font-size:12.5px}
header{display:grid;grid-template-columns:1fr auto;gap:8px 24px;align-items:start}
.state{font-size:15px;font-weight:650;padding:6px 14px;border-radius:4px;border:1.5px solid currentColor;white-space:nowrap}
.is-ok{color:var(--ok)}.is-violated{color:var(--bad)}.is-unknown{color:var(--unknown)}.is-not-tested{color:var(--soft)}
.facts{display:grid;grid-template-columns:repeat(6,1fr);gap:1px;margin:18px 0 0}
.facts div{padding:9px 12px;box-shadow:0 0 0 1px var(--line)}
.facts b{display:block;font-size:19px;font-weight:600;font-variant-numeric:tabular-nums;line-height:1.3}
.facts span{color:var(--soft);font-size:12px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:13px}
caption{text-align:left;color:var(--soft);padding:0 0 6px;font-size:12.5px}
th{font-weight:600;text-align:left;color:var(--soft);font-size:12px;border-bottom:1px solid var(--line);padding:4px 14px 4px 0;vertical-align:bottom;white-space:nowrap}
td{border-bottom:1px solid var(--line);padding:6px 14px 6px 0;vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td.k{white-space:nowrap;font-weight:600}
tr.violated td{background:var(--bad-back)}
tr.violated td:first-child{box-shadow:-8px 0 0 var(--bad-back)}
tr:target td{background:var(--panel)}
.evidence{margin:6px 0 2px;padding:8px 10px;background:var(--panel);border-left:3px solid var(--bad);overflow-x:auto;white-space:pre-wrap;overflow-wrap:anywhere}
.over{color:var(--bad);font-weight:600}
summary{cursor:pointer;color:var(--soft);font-size:12.5px}
.timeline{margin:4px 0 0;font-size:12px}
.row{display:grid;grid-template-columns:144px 1fr;border-top:1px solid var(--line)}
.row.axis{border-top:0}
.row .name{padding:4px 10px 4px 0;font-weight:600;position:relative;line-height:1.3}
.row .name span{display:block;font-weight:400;color:var(--soft);font-size:11px}
.plot{position:relative;min-width:0}
.plot svg{display:block;width:100%;overflow:hidden}
.axis .plot{height:18px}
.tick{position:absolute;color:var(--soft);font-size:11px;font-variant-numeric:tabular-nums;top:1px;padding-left:3px;white-space:nowrap}
.phases .plot{height:24px}
.phase{position:absolute;top:4px;height:16px;border-left:1px solid var(--soft);color:var(--soft);font-size:11px;line-height:16px;padding-left:5px;overflow:hidden;white-space:nowrap;text-overflow:ellipsis}
.faults .plot{padding:4px 0}
.faults .plot>div{position:relative}
.fault{position:absolute;height:15px;border-radius:2px;color:var(--fault-ink);text-decoration:none;font-size:11px;line-height:15px;padding:0 4px;overflow:hidden;white-space:nowrap;text-overflow:ellipsis;min-width:3px;border:0}
.fault[aria-label]:empty{padding:0}
.beside{position:absolute;height:15px;line-height:15px;font-size:11px;padding-left:4px;color:var(--soft);overflow:hidden;white-space:nowrap;text-overflow:ellipsis}
.none{display:block;height:15px}
.row.chart .name{padding:8px 44px 4px 0}
.row.chart .plot,.row.lanes .plot,.row.strip .plot{margin-right:0}
.mark{position:absolute;left:-4px;transform:translate(-100%,-50%);color:var(--soft);font-size:10.5px;font-variant-numeric:tabular-nums;background:var(--back);padding-left:3px}
.mark:last-of-type{transform:translate(-100%,-85%)}
.lanes .name{padding-bottom:0}
.members{position:absolute;right:6px;top:0;text-align:right}
.members i{position:absolute;right:0;font-style:normal;font-weight:400;color:var(--soft);font-size:11px;line-height:15px;white-space:nowrap}
.term{position:absolute;font-size:10px;line-height:15px;color:var(--back);padding-left:4px;pointer-events:none;font-variant-numeric:tabular-nums}
.grid{stroke:var(--line);stroke-width:1;fill:none;vector-effect:non-scaling-stroke}
.column{fill:var(--column)}
.leads{fill:var(--data)}.up{fill:var(--data-soft)}.down{fill:none;stroke:var(--bad);stroke-width:1;vector-effect:non-scaling-stroke}
.missing{fill:var(--soft)}.missing.changed{fill:var(--soft);opacity:.35}
.area{fill:var(--data-soft);stroke:var(--data);stroke-width:1;vector-effect:non-scaling-stroke}
.bad{fill:var(--bad);stroke:var(--bad);stroke-width:1;vector-effect:non-scaling-stroke}
.step,.line{fill:none;stroke:var(--data);stroke-width:1.5;vector-effect:non-scaling-stroke}
.dashes{fill:none;stroke:var(--soft);stroke-width:1;stroke-dasharray:3 3;vector-effect:non-scaling-stroke}
.dots{fill:none;stroke:var(--soft);stroke-width:3;stroke-linecap:round;vector-effect:non-scaling-stroke}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;color:var(--soft);font-size:12px;margin:6px 0 0 144px}
.legend i{display:inline-block;width:14px;height:10px;margin-right:6px;vertical-align:-1px;border-radius:1px}
.halves{display:grid;grid-template-columns:repeat(auto-fit,minmax(320px,1fr));gap:10px 40px}
.bars{display:grid;align-items:end;height:110px;gap:1px;border-bottom:1px solid var(--soft);margin-top:6px}
.bars div{background:var(--data);min-height:1px}
.bars div.empty{background:none}
.bar-ticks{position:relative;height:16px;font-size:10.5px;color:var(--soft)}
.bar-ticks span{position:absolute;transform:translateX(-50%);white-space:nowrap}
.bar-ticks span:first-child{transform:none}
ul.plain{margin:0;padding:0;list-style:none}ul.plain li{padding:3px 0;border-bottom:1px solid var(--line)}
footer{margin-top:40px;color:var(--soft);font-size:12px}
@media(max-width:900px){main{padding:20px 16px 40px}.facts{grid-template-columns:repeat(3,1fr)}.row{grid-template-columns:132px 1fr}.legend{margin-left:0}header{grid-template-columns:1fr}.state{justify-self:start;grid-row:1}}
@media(max-width:560px){.facts{grid-template-columns:repeat(2,1fr)}.row{grid-template-columns:1fr}.row .name{padding:4px 0}.mark{left:0;transform:translateY(-50%);background:none}.members{display:none}}
@media print{.scroll{overflow:visible}}
`
