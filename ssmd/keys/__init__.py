"""Keys: where secrets come from, how they are sealed, and the journal of what happened to them. No value leaves except as `Secret`."""
