"""Feeds, schemas and environments: YAML files in the user's git repository, read into frozen models, edited in place, checked together."""
