"""What `tools/doctor.py` looks at: facts are gathered where something may be missing, findings are functions of facts alone."""
