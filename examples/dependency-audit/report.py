"""The report as one HTML page that needs nothing else: no script, no font, no network."""

from html import escape
from string import Template

import signing
from sources import users_of

#: More files than this are counted, not named; the JSON names all.
FILES_MAX = 8

PAGE = Template("""<!doctype html>
<html lang="en" $signature_slot>
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Dependency audit: $name $version</title>
<style>
  :root { color-scheme: light dark; --ink: #24292f; --soft: #57606a; --line: #d8dee4; --paper: #fff; --card: #f6f8fa;
          --warn: #9a6700; --accent: #2f6f9f }
  @media (prefers-color-scheme: dark) {
    :root { --ink: #e6edf3; --soft: #9198a1; --line: #30363d; --paper: #0d1117; --card: #151b23; --warn: #d29922;
            --accent: #58a6d8 } }
  body { margin: 0 auto; max-width: 60rem; padding: 2.5rem 1.25rem; background: var(--paper); color: var(--ink);
         font: 16px/1.55 system-ui, sans-serif }
  h1 { font-size: 1.75rem; margin: 0 } h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem }
  .lead, .soft, footer { color: var(--soft) } .lead { margin: .25rem 0 1.75rem }
  .figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .75rem; margin: 0 }
  .figures div { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .75rem 1rem }
  .figures dt { color: var(--soft); font-size: .85rem } .figures dd { margin: 0; font-size: 1.5rem; font-weight: 600 }
  figure { margin: 1rem 0; border: 1px solid var(--line); border-radius: 8px; overflow: hidden }
  svg { display: block; width: 100%; height: auto }
  .wide { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-size: .92rem }
  th, td { text-align: left; padding: .4rem .75rem .4rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
  th { color: var(--soft); font-weight: 600 } td.n, th.n { text-align: right }
  code { font: .9em ui-monospace, monospace } .files code { white-space: nowrap; margin-right: .75em }
  .warning { color: var(--warn); font-weight: 600 }
  footer { margin-top: 3rem; padding-top: 1rem; border-top: 1px solid var(--line); font-size: .85rem }
</style>
</head>
<body>
<h1>Dependency audit</h1>
<p class="lead">$name $version: what it depends on, and where its own code uses it.</p>
<dl class="figures">
$figures
</dl>
<h2>To look at</h2>
$findings
<h2>Dependencies</h2>
<figure>$dependents</figure>
<div class="wide"><table>
<thead><tr><th>Direct dependency</th><th>Version</th><th class="n">Brings</th><th>Named in</th></tr></thead>
<tbody>
$direct
</tbody></table></div>
<p class="soft">“Brings” counts the crates that are in the build because of it. All $crates crates with their checksums
are in <code>dependencies.csv</code>.</p>
<h2>Code</h2>
<figure>$modules</figure>
<footer>Signed with HMAC-SHA256. The signature is the attribute <code>data-signature</code> of this page's first element and the
content of <code>report.html.sig</code>; <code>verify.py --key KEYFILE report.html</code> checks both.</footer>
</body>
</html>
""")


def page(graph, files, summary, charts):
    """The whole page with an empty signature slot."""
    dependents, modules = charts
    return PAGE.substitute(
        signature_slot=signing.slot(),
        name=escape(graph.root.name),
        version=escape(graph.root.version),
        crates=len(graph.crates),
        figures=figures(summary),
        findings=findings(summary["findings"]),
        dependents=dependents,
        modules=modules,
        direct="\n".join(direct_row(graph, crate, files) for crate in graph.direct()),
    )


def figures(summary):
    shown = {
        "Crates": summary["crates"],
        "Direct": summary["direct"],
        "Deepest": summary["depth_max"],
        "Source files": summary["files"],
        "Lines of code": summary["code_lines"],
        "Findings": len(summary["findings"]),
    }
    return "\n".join(f"<div><dt>{name}</dt><dd>{value:,}</dd></div>" for name, value in shown.items())


def findings(found):
    if not found:
        return "<p>Nothing.</p>"
    rows = "\n".join(
        f'<tr><td class="{f["level"]}">{f["level"]}</td><td><code>{escape(f["subject"])}</code></td>'
        f'<td>{escape(f["text"])}</td></tr>'
        for f in found
    )
    return f'<div class="wide"><table><tbody>\n{rows}\n</tbody></table></div>'


def direct_row(graph, crate, files):
    users = users_of(crate.name, files)
    named = " ".join(f"<code>{escape(path)}</code>" for path in users[:FILES_MAX])
    if len(users) > FILES_MAX:
        named += f' <span class="soft">and {len(users) - FILES_MAX} more</span>'
    elif not users:
        named = f'<span class="soft">{"tests only" if crate.name in graph.not_in_program else "—"}</span>'
    return (
        f"<tr><td><code>{escape(crate.name)}</code></td><td>{escape(crate.version)}</td>"
        f'<td class="n">{brought_by(crate)}</td><td class="files">{named}</td></tr>'
    )


def brought_by(crate):
    """How many crates `crate` needs, directly or through others."""
    seen, waiting = set(), list(crate.needs)
    while waiting:
        need = waiting.pop()
        if need not in seen:
            seen.add(need)
            waiting.extend(need.needs)
    return len(seen)
