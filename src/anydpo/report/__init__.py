"""Reports for people: one description of what to say, shown on a terminal or as a self-contained page."""
