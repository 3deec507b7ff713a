"""Masked video modelling without its loss: which units are hidden, what stood in them, who guesses it, and a teacher that lags."""
