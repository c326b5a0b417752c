"""The trading day: its states, its steps, and the runner that drives them."""
