"""Preference data: any dialect in, canonical pairs inside, any dialect out."""
