"""The studio: a page on which musicians make transfers. Only `page` and `serve` know Gradio."""
