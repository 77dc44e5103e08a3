"""How pages and cells of notebooks look: one set of rules, with colours for light pages, dark ones and either."""

__all__ = ["EITHER", "PAGE", "RULES"]

RULES = """
.wide{overflow-x:auto;margin:.5em 0;max-width:100%}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}
th{font-weight:600;color:var(--muted);text-align:right;padding:.3em .7em;border-bottom:1px solid var(--edge);vertical-align:bottom}
td{text-align:right;padding:.25em .7em;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child,td.text,th.text{text-align:left}
tbody th{border-bottom:1px solid var(--line)}
tbody th,td.text{max-width:18em;overflow-wrap:break-word;white-space:normal}
.text{text-align:left}
td.note{white-space:normal;text-align:left;color:var(--muted);min-width:12em}
.se{color:var(--faint);font-size:.88em}
.agrees{color:var(--good)}
.unclear{color:var(--unsure)}
.differs{color:var(--bad)}
td.agrees{background:rgba(35,144,106,.14)}
td.unclear{background:rgba(190,120,10,.14)}
td.differs{background:rgba(214,69,59,.14)}
.card{border:1px solid var(--rule);border-radius:10px;padding:.8em 1.1em;margin:.6em 0}
.card h3{display:inline;font-size:1.02em;margin:0 .6em 0 0}
.card ul{list-style:none;padding-left:1.2em;margin:.4em 0}
.warn{border:2px solid var(--bad);background:rgba(214,69,59,.1);border-radius:10px;padding:.8em 1.1em;margin:1em 0;font-weight:600}
.advice li{margin:.35em 0}
details{margin:.4em 0}
summary{cursor:pointer;color:var(--link)}
dl{display:grid;grid-template-columns:auto 1fr;gap:.15em 1.2em;font-size:13px}
dt{font-weight:600;font-family:ui-monospace,Menlo,Consolas,monospace}
dd{margin:0;overflow-wrap:anywhere}
.small{color:var(--muted);font-size:13px}
"""
"""What pages and cells of notebooks share."""

_LIGHT = (
    "--ink:#2b2f36;--paper:#fff;--muted:#646a74;--faint:#737983;--rule:#e3e6ea;--edge:#c9cdd3;--line:#f0f1f4;--shade:#f6f7f9;"
    "--good:#1b7f5c;--unsure:#a35f00;--bad:#b3261e;--link:#3b5bdb;--area:#c9cdd3;--first:#0072b2"
)
_DARK = (
    "--ink:#dfe3e8;--paper:#14171c;--muted:#a2a9b4;--faint:#8d95a1;--rule:#333942;--edge:#4b525d;--line:#262b33;--shade:#1b1f26;"
    "--good:#43b98c;--unsure:#dd9a35;--bad:#f0776d;--link:#8ea4f5;--area:#4b525d;--first:#3d9ddb"
)
EITHER = (
    "--muted:#777e88;--faint:#808791;--rule:rgba(128,136,148,.35);--edge:rgba(128,136,148,.6);--line:rgba(128,136,148,.22);"
    "--good:#23906a;--unsure:#bd7a14;--bad:#d6453b;--link:#5c78e6"
)
"""Colours that can be read on white and on black alike, as a notebook may be either."""

PAGE = f"""
:root{{color-scheme:light dark;{_LIGHT}}}
@media (prefers-color-scheme:dark){{:root{{{_DARK}}}}}
body{{font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;color:var(--ink);background:var(--paper);
max-width:1180px;margin:2em auto;padding:0 1.5em;overflow-wrap:break-word}}
h1{{font-size:1.7em;line-height:1.25;margin:0 0 .2em}}
h2{{font-size:1.15em;margin:2em 0 .6em;padding-bottom:.25em;border-bottom:1px solid var(--rule)}}
.mark{{font-size:.5em;vertical-align:middle}}
.lead{{color:var(--muted);margin:0 0 1.2em}}
{RULES}
.table,figure .wide{{background:linear-gradient(90deg,var(--paper) 2em,transparent) 0 0/3em 100% no-repeat local,
linear-gradient(270deg,var(--paper) 2em,transparent) 100% 0/3em 100% no-repeat local,
linear-gradient(90deg,rgba(128,136,148,.45),transparent) 0 0/1em 100% no-repeat scroll,
linear-gradient(270deg,rgba(128,136,148,.45),transparent) 100% 0/1em 100% no-repeat scroll}}
.tall{{max-height:32em;overflow-y:auto}}
.tall thead th{{position:sticky;top:0;background:var(--paper)}}
.wide:focus-visible{{outline:2px solid var(--link)}}
.hint{{display:none;color:var(--muted);font-size:12px;margin:.2em 0 -.2em}}
.always{{display:block;margin:.2em 0}}
figure{{margin:.6em 0 1.4em}}
figure .hint{{margin:.2em 0}}
figcaption{{color:var(--muted);font-size:13px;margin:.2em 0}}
figure svg,figure img{{display:block;width:100%;height:auto;margin:0 auto}}
figure .wide svg{{min-width:calc(1.1*var(--w));max-width:calc(1.9*var(--w))}}
figure svg text{{fill:var(--ink);font-family:"DejaVu Sans",Verdana,system-ui,sans-serif}}
.panels{{display:grid;grid-template-columns:repeat(auto-fill,minmax(240px,1fr));gap:.4em 1em}}
.panels figure{{margin:0}}
pre{{background:var(--shade);border:1px solid var(--rule);border-radius:8px;padding:.8em 1em;overflow-x:auto;
font-size:12.5px;line-height:1.45}}
@media (max-width:720px){{body{{margin:1em auto;padding:0 .9em}}tbody th,td.text{{max-width:11em}}
h1{{font-size:1.4em}}.hint{{display:block}}
figure .wide img{{min-width:600px}}
.panels{{grid-template-columns:repeat(auto-fill,minmax(150px,1fr))}}dl{{grid-template-columns:1fr}}dd{{margin:0 0 .5em}}}}
@media print{{:root{{{_LIGHT}}}
figure .wide svg{{min-width:0}}
body{{max-width:none;margin:0;font-size:11pt}}.wide,.tall{{overflow:visible;max-height:none}}
.hint{{display:none}}figure,.card,tr{{break-inside:avoid}}h2,h3{{break-after:avoid}}table{{font-size:8.5pt}}td{{white-space:normal}}
.table,figure .wide{{background:none}}*{{print-color-adjust:exact}}}}
"""
"""The rules of all pages."""
