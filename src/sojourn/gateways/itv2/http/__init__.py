"""HTTP and WebSocket for the panels: state, commands, history, and NeoHub's own messages for those who come from it."""
