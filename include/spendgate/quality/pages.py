"""The folder of Data Docs: one folder a pass, named after its time, kept for 30 days; an index over all of them.

Great Expectations' pages load style sheets, scripts and a logo from other hosts. What they say is in the pages
themselves, so all of that is taken out and one style sheet put in: they can be read offline, and tell nobody.
"""

from __future__ import annotations

import html
import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

KEPT = timedelta(days=30)
_NAME = "%Y-%m-%dT%H%M%S.%fZ"
_LOADS = re.compile(r"<script\b.*?</script>|<link\b[^>]*>|<img\b[^>]*>|<style\b.*?</style>", re.DOTALL | re.IGNORECASE)
_STYLE = """<style>
body { font: 15px/1.5 sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: .5rem 0; } td, th { border: 1px solid #ccc; padding: .3rem .6rem; }
td, th { text-align: left; vertical-align: top; } pre { white-space: pre-wrap; } nav, button, .modal { display: none; }
</style>"""


def new_folder(root: Path, now: datetime) -> Path:
    """A folder for the pages of a pass."""
    folder = root / now.astimezone(UTC).strftime(_NAME)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def finish_pages(folder: Path) -> None:
    """Take out of each page what it would load from elsewhere."""
    for page in folder.rglob("*.html"):
        text = _LOADS.sub("", page.read_text(encoding="utf-8"))
        page.write_text(text.replace("</head>", f"{_STYLE}</head>", 1), encoding="utf-8")
    shutil.rmtree(folder / "static", ignore_errors=True)


def write_index(root: Path) -> Path:
    """Write the page that leads to all others, newest first; returns its path."""
    items = [
        f'<li><a href="{html.escape(page.relative_to(root).as_posix())}">{html.escape(_label(root, page))}</a></li>'
        for folder in sorted(_folders(root), reverse=True)
        for page in sorted(folder.glob("validations/**/*.html"))
    ]
    index = root / "index.html"
    written = index.with_suffix(".new")
    written.write_text(
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Data Docs</title>{_STYLE}</head><body>'
        "<h1>What the gate judged</h1><p>One page a stream and pass: every expectation, and the batches that "
        f"don't meet it. Kept for {KEPT.days} days.</p><ul>{''.join(items)}</ul></body></html>\n",
        encoding="utf-8",
    )
    written.replace(index)
    return index


def remove_old(root: Path, now: datetime) -> None:
    """Remove passes that are older than they are kept."""
    for folder in _folders(root):
        if datetime.strptime(folder.name, _NAME).replace(tzinfo=UTC) < now - KEPT:
            shutil.rmtree(folder, ignore_errors=True)


def _folders(root: Path) -> list[Path]:
    return [path for path in root.glob("*Z") if path.is_dir() and re.fullmatch(r"[\d-]+T\d+\.\d+Z", path.name)]


def _label(root: Path, page: Path) -> str:
    passed, _, stream = page.relative_to(root).parts[:3]
    return f"{passed[:10]} {passed[11:13]}.{passed[13:15]} UTC: {stream}"
