"""The gateway: live and past views of the journal for clients, over WebSocket and REST. It holds no truth and may be killed at any time."""
