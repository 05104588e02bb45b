"""Transfers over HTTP, for programs."""
