"""What every part of RoboAlign agrees on: types, limits, file formats and the wire."""
