"""Listening tests: a study on disk, its page for listeners, and what their answers say."""
