"""The journal: entries, their wire form, and the places they are kept."""
