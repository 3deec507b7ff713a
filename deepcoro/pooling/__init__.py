"""What poolers are made of: the study pooler that they fill in, attention over a set with a mask, the view of a clip."""
