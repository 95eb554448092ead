"""The page at ``/``: what to do next. Static, no outside request."""

from html import escape

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>imgsim</title>
<style>
:root { color-scheme: light dark }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem }
pre { background: color-mix(in srgb, currentColor 8%, transparent); padding: .8rem; overflow-x: auto; border-radius: .4rem }
</style></head><body>
<h1>imgsim is running</h1>
<p>Upload images, and ask what looks like them.</p>
<h2>Upload an image</h2>
<pre>curl -F file=@cat.jpg http://localhost:8000/images/upload</pre>
<p>The answer has the image's <code>id</code>. A moment later its <code>state</code> is <code>done</code>:</p>
<pre>curl http://localhost:8000/images/ID</pre>
<h2>Ask for similar ones</h2>
<pre>curl http://localhost:8000/images/ID/similar
curl -F file=@other.jpg http://localhost:8000/search</pre>
<h2>A whole folder</h2>
<pre>imgsim index --server http://localhost:8000 ~/Pictures</pre>
<h2>More</h2>
<ul>
<li><a href="/schema">The API, page by page</a> (<a href="/schema/openapi.json">OpenAPI</a>)</li>
<li><a href="/images">All images</a>, <a href="/ready">readiness</a>, <a href="/metrics">metrics</a></li>
</ul>
</body></html>
"""


def landing_page(base_url: str) -> str:
    """`base_url` is under which the reader has reached it."""
    return _PAGE.replace("http://localhost:8000", escape(base_url.rstrip("/")))
