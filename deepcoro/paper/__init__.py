"""What a run gives a paper: tables, model card, Table 1, flow of exclusions, reporting checklists. All from its record; all may be shared."""
