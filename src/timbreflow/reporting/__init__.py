"""From tables of figures to HTML, Markdown and charts."""
