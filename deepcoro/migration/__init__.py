"""From DeepCORO_CLIP to here: its configs (`keys`, `conversions`, `old_config`) and its checkpoints."""
