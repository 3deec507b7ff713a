"""Where in a film a model looks, checked by hiding what it looks at. For people who read results; nothing here trains."""
