"""Serves a policy bundle: observations in, action chunks out. Never imports torch."""
