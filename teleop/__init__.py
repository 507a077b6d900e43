"""Demonstrations: devices, recorder, data sets, operator console."""
