"""The exchange gateway: user sessions over REST and WebSocket that own exchange simulators."""
